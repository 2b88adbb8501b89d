"""``Range`` of HTTP: the part of a file that a player asks for when it seeks (RFC 9110, 14.2)."""

from __future__ import annotations

import re
from typing import Final

_ONE_RANGE: Final = re.compile(r"bytes[ \t]*=[ \t]*(\d{0,100})-(\d{0,100})[ \t]*", re.ASCII | re.I)


def byte_range(header: str | None, size_bytes: int) -> range | None:
    """Return the bytes of a file that a request asks for.

    Args:
        header: Value of ``Range``; None if the request has none.
        size_bytes: Size of the file.

    Returns:
        Positions in the file, none of them if it has no such bytes; None for the complete file: no
        header, several ranges, or a header of another form, which servers may ignore.

    Examples:
        >>> byte_range("bytes=10-19", 100), byte_range("bytes=-10", 100), byte_range(None, 100)
        (range(10, 20), range(90, 100), None)
    """
    found = _ONE_RANGE.fullmatch(header or "")
    if found is None or found[1] == found[2] == "":
        return None
    first, last = found[1], found[2]
    if not first:
        return range(max(size_bytes - int(last), 0), size_bytes)
    if last and int(last) < int(first):
        return None
    end = min(int(last) + 1, size_bytes) if last else size_bytes
    return range(min(int(first), size_bytes), end)
