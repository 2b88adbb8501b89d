"""The words of a text, and the tokens of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

_NO_SPACES: Final = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"  # Japanese and Chinese
_WORD: Final = re.compile(rf"[{_NO_SPACES}]|[^\s{_NO_SPACES}]+")


def find_words(text: str) -> list[slice]:
    """Return the position of each word; in scripts without spaces, of each character.

    Examples:
        >>> [("a dog")[place] for place in find_words("a dog")]
        ['a', 'dog']
        >>> len(find_words("犬と猫"))
        3
    """
    return [slice(*match.span()) for match in _WORD.finditer(text)]


def find_tokens(text: str, encode: Callable[[str], list[int]]) -> list[slice]:
    """Return the position of the tokens of each word.

    The tokens of the text up to a word are compared with those of the complete text, so any
    tokenizer can be used. A truncated word has no tokens.

    Args:
        text: The text.
        encode: Returns the token ids of a text, with start and end, truncated and not padded.

    Examples:
        >>> def encode(text):  # a start, one token per letter, an end
        ...     return [0, *(ord(letter) for letter in text if letter != " "), 1]
        >>> find_tokens("a dog", encode)
        [slice(1, 2, None), slice(2, 5, None)]
    """
    words, ids, empty = find_words(text), encode(text), encode("")
    start = _common(ids, empty)
    end = max(start, len(ids) - (len(empty) - start))
    spans: list[slice] = []
    for number, word in enumerate(words):
        is_last = number == len(words) - 1
        reached = end if start == end or is_last else _common(ids, encode(text[: word.stop]))
        reached = min(max(start, reached), end)
        spans.append(slice(start, reached))
        start = reached
    return spans


def _common(ids: Sequence[int], others: Sequence[int]) -> int:
    """Return the number of leading ids that are equal."""
    pairs = zip(ids, others, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(others)))
