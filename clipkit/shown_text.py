"""Texts of data on a terminal, which obeys the control characters that a text may have."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

# C0 and C1 controls (ESC and CSI begin commands of the terminal), separators of lines, marks of the
# direction of writing, which change the order of what follows, and halves of characters.
_CONTROLS: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
_RIGHT_TO_LEFT: Final = frozenset({"R", "AL", "AN"})
_NAMES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def shown_text(text: str) -> str:
    r"""Return a text on one line, with escapes in place of control characters.

    All other characters stay, such as joined emoji and the spaces of other scripts. In JSON the
    escapes mean the same characters.

    Examples:
        >>> shown_text("a dog\x1b[2J\nand a cat")
        'a dog\\u001b[2J\\nand a cat'
    """
    return _CONTROLS.sub(lambda found: _NAMES.get(found[0], f"\\u{ord(found[0]):04x}"), text)


def isolated(text: str) -> str:
    r"""Return a text that changes the order of no other text on its line.

    Text from right to left is enclosed in Unicode's isolates, which have no width.

    Examples:
        >>> isolated("a dog"), isolated("\u05db\u05dc\u05d1").encode("unicode_escape")
        ('a dog', b'\\u2068\\u05db\\u05dc\\u05d1\\u2069')
    """
    if not any(unicodedata.bidirectional(character) in _RIGHT_TO_LEFT for character in text):
        return text
    return f"\N{FIRST STRONG ISOLATE}{text}\N{POP DIRECTIONAL ISOLATE}"
