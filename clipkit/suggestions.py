"""Close matches for a mistyped name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean 'a' or 'b'?"``, or nothing where nothing is close.

    A dotted word is matched from its first wrong part on, so that ``modle.loss`` finds ``model``.

    Examples:
        >>> did_you_mean("modle.loss", ["model", "model.loss", "data"])
        "; did you mean 'model.loss'?"
    """
    names = sorted(set(known))
    close = difflib.get_close_matches(word, names, n=3, cutoff=0.75)
    if not close and "." in word:
        head = word.split(".")[0]
        close = difflib.get_close_matches(head, {name.split(".")[0] for name in names}, n=3)
    elif not close:
        close = difflib.get_close_matches(word, names, n=3, cutoff=0.6)
    exact = [name for name in close if name != word][:2]
    return f"; did you mean {' or '.join(map(repr, exact))}?" if exact else ""
