"""Shell braces: expand patterns such as ``{a,b}`` and ``{000..127}``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from clipkit.errors import DataError

MAX_NAMES: Final = 1_000_000
MAX_BRACES: Final = 100
_SHOWN_CHARACTERS: Final = 80
_RANGE: Final = re.compile(
    r"^(-?\d{1,18}|[A-Za-z])\.\.(-?\d{1,18}|[A-Za-z])(?:\.\.(-?\d{1,18}))?$", re.ASCII
)


def expand_braces(pattern: str) -> Iterator[str]:
    """Yield every string of a pattern with ``{a,b}`` and ``{000..127}``, also nested.

    The names are counted before any is looked up, which the library braceexpand cannot do
    (docs/decisions/kept-instead-of-libraries.md).

    Examples:
        >>> list(expand_braces("{a,b}-{09..10}.tar"))
        ['a-09.tar', 'a-10.tar', 'b-09.tar', 'b-10.tar']
    """
    if pattern.count("{") > MAX_BRACES:
        raise DataError(f"{_shown(pattern)}: expected at most {MAX_BRACES} pairs of braces")
    # Expand all names before the first file is looked up.
    yield from list(_bounded(_expanded(pattern), pattern))


def _bounded(names: Iterator[str], pattern: str) -> Iterator[str]:
    yield from islice(names, MAX_NAMES)
    if next(names, None) is not None:
        raise DataError(
            f"{_shown(pattern)}: expands to more than {MAX_NAMES:,} names; "
            f"use a folder, a glob, or a smaller range"
        )


def _shown(pattern: str) -> str:
    return pattern if len(pattern) <= _SHOWN_CHARACTERS else f"{pattern[:_SHOWN_CHARACTERS]}..."


def _expanded(pattern: str) -> Iterator[str]:
    start = pattern.find("{")
    while start != -1:
        end = _closing(pattern, start)
        choices = _choices(pattern[start + 1 : end]) if end != -1 else None
        if choices is not None:
            tails = list(_bounded(_expanded(pattern[end + 1 :]), pattern))
            for choice in choices:
                for middle in _expanded(choice):
                    yield from (f"{pattern[:start]}{middle}{tail}" for tail in tails)
            return
        start = pattern.find("{", start + 1)
    yield pattern


def _closing(pattern: str, start: int) -> int:
    depth = 0
    for position in range(start, len(pattern)):
        depth += {"{": 1, "}": -1}.get(pattern[position], 0)
        if depth == 0:
            return position
    return -1


def _choices(inside: str) -> Iterable[str] | None:
    """Return the choices of one pair of braces; None if the braces are part of the name."""
    match = _RANGE.match(inside)
    if match:
        first, last, step_text = match.groups()
        step = abs(int(step_text or 1)) or 1
        if first.isalpha() != last.isalpha():
            return None
        if first.isalpha():
            low, high = ord(first), ord(last)
            return map(chr, _inclusive(low, high, step))
        padded = any(
            len(text.lstrip("-")) > 1 and text.lstrip("-")[0] == "0" for text in (first, last)
        )
        width = max(len(first), len(last)) if padded else 0
        return (str(number).zfill(width) for number in _inclusive(int(first), int(last), step))
    parts, depth = [""], 0
    for character in inside:
        depth += {"{": 1, "}": -1}.get(character, 0)
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return parts if len(parts) > 1 else None


def _inclusive(first: int, last: int, step: int) -> range:
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
