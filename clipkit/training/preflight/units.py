"""Numbers with units."""

from __future__ import annotations


def human_bytes(count: float) -> str:
    """Format a number of bytes with a unit of 1024.

    Examples:
        >>> human_bytes(1536)
        '1.5 KiB'
    """
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}" if count < 1000 else f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"
