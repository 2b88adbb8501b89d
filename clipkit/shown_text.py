"""Texts of data on a terminal, which obeys the control characters that a text may have."""

from __future__ import annotations

import re
from typing import Final

# C0 and C1 controls (ESC and CSI begin commands of the terminal), separators of lines, marks of the
# direction of writing, which change the order of what follows, and halves of characters.
_CONTROLS: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
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
