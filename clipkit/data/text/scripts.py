"""The script that a text is written in: a hint at its language, never a language."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from typing import Final

_OTHER: Final = "other"
_STARTS: Final = (
    (0x0041, "Latin"), (0x0250, _OTHER), (0x0370, "Greek"), (0x0400, "Cyrillic"),
    (0x0530, "Armenian"), (0x0590, "Hebrew"), (0x0600, "Arabic"), (0x0700, _OTHER),
    (0x0900, "Devanagari"), (0x0980, "Bengali"), (0x0A00, _OTHER), (0x0B80, "Tamil"),
    (0x0C00, "Telugu"), (0x0C80, _OTHER), (0x0E00, "Thai"), (0x0E80, _OTHER),
    (0x10A0, "Georgian"), (0x1100, "Hangul"), (0x1200, _OTHER), (0x1E00, "Latin"),
    (0x1F00, "Greek"), (0x2000, _OTHER), (0x3040, "Kana"), (0x3100, _OTHER), (0x3400, "Han"),
    (0xA000, _OTHER), (0xAC00, "Hangul"), (0xD7B0, _OTHER), (0xF900, "Han"), (0xFB00, _OTHER),
    (0x20000, "Han"), (0x32000, _OTHER),
)  # fmt: skip
_POINTS: Final = [start for start, _ in _STARTS]


def script_of(text: str) -> str:
    """Return the script of most letters of a text; "none" if it has no letters.

    Examples:
        >>> script_of("two dogs"), script_of("две собаки"), script_of("42")
        ('Latin', 'Cyrillic', 'none')
    """
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return "none"
    if text.isascii():
        return "Latin"
    scripts = Counter(_STARTS[bisect_right(_POINTS, ord(each)) - 1][1] for each in letters)
    if scripts["Kana"]:  # Japanese mixes both
        return "Kana"
    return min(scripts, key=lambda script: (-scripts[script], script))
