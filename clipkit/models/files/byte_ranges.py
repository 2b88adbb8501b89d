"""Ranges of bytes of a file, and the fewer ones that are read instead of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

Range = tuple[int, int]
"""First byte, and the one after the last."""


def merge_ranges(ranges: Sequence[Range], max_gap: int, max_bytes: int) -> list[Range]:
    """Return ranges without overlap, in order, of which each given range is in one.

    Args:
        ranges: Ranges in any order; they may overlap.
        max_gap: Most bytes between two ranges that are read as one.
        max_bytes: Most bytes of a range that several are merged to, unless they overlap.

    Examples:
        >>> merge_ranges([(100, 110), (0, 8), (8, 20), (22, 30)], max_gap=2, max_bytes=99)
        [(0, 30), (100, 110)]
    """
    merged: list[Range] = []
    for start, end in sorted(ranges):
        first, last = merged[-1] if merged else (start, start)
        longer = max(end, last)
        is_near = start <= last + max_gap and longer - first <= max_bytes
        if merged and (start < last or is_near):
            merged[-1] = first, longer
        else:
            merged.append((start, end))
    return merged


def cut_ranges(
    ranges: Sequence[Range], merged: Sequence[Range], data: Sequence[bytes]
) -> list[bytes]:
    """Return the bytes of ranges from those of the ranges that ``merge_ranges`` made of them.

    Args:
        ranges: Ranges in any order.
        merged: Ranges in order, of which each of ``ranges`` is in one.
        data: Bytes of every range of ``merged``.

    Examples:
        >>> cut_ranges([(3, 5), (0, 2)], [(0, 5)], [b"01234"])
        [b'34', b'01']
    """
    starts = [start for start, _ in merged]
    found = []
    for start, end in ranges:
        number = bisect_right(starts, start) - 1
        offset = starts[number]
        found.append(data[number][start - offset : end - offset])
    return found
