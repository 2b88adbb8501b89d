"""Truncate encoded captions as their tokenizer would."""

from __future__ import annotations

from jaxtyping import Int64
from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer

_LONG_CAPTIONS = ("a ", "b ")


def truncation_token(tokenizer: Tokenizer) -> int | None:
    """Return the last token of captions that a tokenizer truncates; None if it adds none."""
    length = tokenizer.context_length
    rows = [tokenizer.encode(text * 2 * length) for text in _LONG_CAPTIONS]
    first, second = (row[-1] if len(row) == length else tokenizer.pad_id for row in rows)
    return first if first == second else None


def truncate_tokens(
    tokens: Int64[Tensor, "B S"], length: int, pad_id: int, end: int | None
) -> Int64[Tensor, "B kept"]:
    """Truncate captions to ``length`` tokens, with the end of their tokenizer.

    Examples:
        >>> truncate_tokens(torch.tensor([[8, 1, 2, 3, 9], [8, 1, 9, 0, 0]]), 3, 0, end=9).tolist()
        [[8, 1, 9], [8, 1, 9]]
    """
    if tokens.shape[1] <= length:
        return tokens
    cut = tokens[:, :length].clone()
    if end is not None:
        # The padding id may also be a word (CLIP's "!"): check all tokens that are removed.
        reach_the_end = (tokens[:, length - 1 :] != pad_id).any(dim=1)
        cut[reach_the_end, length - 1] = end
    return cut
