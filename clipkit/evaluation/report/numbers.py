"""Format numbers for readers, and choose the ticks of an axis."""

from __future__ import annotations

import math

_THIN = "\N{NARROW NO-BREAK SPACE}"


def percent(share: float, digits: int = 1) -> str:
    """Return a share in percent without the sign: 0.5 -> "50.0"."""
    return f"{100 * share:.{digits}f}"


def compact(value: float) -> str:
    """Return three significant figures, with k, M or G for large values: 12345 -> "12.3k"."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    size = abs(value)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if size >= limit:
            return f"{value / limit:.3g}{unit}"
    if size >= 0.0001:
        return f"{value:.3g}"
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.removesuffix('.0')}e{int(exponent)}"


def grouped(count: int) -> str:
    """Return digits in groups of three: 1234567 -> "1 234 567" with narrow no-break spaces."""
    return f"{count:,}".replace(",", _THIN)


def nice_ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Return about ``count`` round values (1, 2 or 5 times a power of ten) that span an interval.

    Examples:
        >>> nice_ticks(0.0, 0.83)
        [0.0, 0.5, 1.0]
    """
    if high <= low:
        margin = abs(low) or 1.0
        low, high = low - margin / 2, high + margin / 2
    raw = (high - low) / count
    magnitude = 10.0 ** math.floor(math.log10(raw))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]
