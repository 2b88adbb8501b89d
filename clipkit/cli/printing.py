"""Print texts of data so that a terminal obeys none of them."""

from __future__ import annotations

import sys

from clipkit.shown_text import isolated, shown_text


def say(text: str, *, to_errors: bool = False, flush: bool = False) -> None:
    """Print lines, with escapes in place of control characters but for the ends of lines.

    Args:
        text: The lines.
        to_errors: Whether they go to standard error.
        flush: Whether they are written at once.
    """
    lines = "\n".join(map(shown_text, text.split("\n")))
    print(lines, file=sys.stderr if to_errors else sys.stdout, flush=flush)


def cell(text: str) -> str:
    r"""Return a text for a table of rich, which reads brackets as markup.

    Text from right to left changes nothing of the order of columns.

    Examples:
        >>> cell("[red]\x1b[31m")
        '\\[red]\\u001b[31m'
    """
    from rich.markup import escape

    return escape(isolated(shown_text(text)))
