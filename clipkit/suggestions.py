"""Texts of error messages: close matches for a mistyped name, and messages on one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'a' or 'b'?"``, or an empty text if nothing is close.

    Case is ignored. A dotted word is matched from its first wrong part on, so
    that ``modle.loss`` finds ``model``. An option that is nested now is found by its last part:
    ``data.seed`` finds ``data.order.seed``.

    Examples:
        >>> did_you_mean("modle.loss", ["model", "model.loss", "data"])
        "; did you mean 'model.loss'?"
    """
    names = {name.lower(): name for name in sorted(set(known))}
    lower = word.lower()
    parent, _, leaf = lower.rpartition(".")
    nested = [name for name in names if name.startswith(parent) and name.endswith(f".{leaf}")]
    close = nested or difflib.get_close_matches(lower, names, n=3, cutoff=0.75)
    if not close and "." in word:
        names = {name.split(".")[0]: full.split(".")[0] for name, full in names.items()}
        close = difflib.get_close_matches(lower.split(".")[0], names, n=3)
    elif not close:
        close = difflib.get_close_matches(lower, names, n=3, cutoff=0.6)
    exact = [names[name] for name in close if names[name] != word][:2]
    return f"; did you mean {' or '.join(map(repr, exact))}?" if exact else ""


def one_line(message: str, omit: tuple[str, ...] = ()) -> str:
    r"""Return a message on one line, without bullets and repeated lines; options keep dashes.

    Examples:
        >>> one_line("--a: wrong:\n  - one\n  - one\n--b is missing")
        '--a: wrong: one; --b is missing'
    """
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    kept = [line for line in lines if line and not (omit and line.startswith(omit))]
    return "; ".join(dict.fromkeys(kept)).replace(":;", ":")
