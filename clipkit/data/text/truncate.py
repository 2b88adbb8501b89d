"""Captions made shorter than their tokenizer made them, as it would have made them itself."""

from __future__ import annotations

from jaxtyping import Int64
from torch import Tensor

from clipkit.data.text.tokenizer import Tokenizer

_LONG_CAPTIONS = ("a ", "b ")


def truncation_token(tokenizer: Tokenizer) -> int | None:
    """What a tokenizer puts at the last place of a caption that it cuts.

    Args:
        tokenizer: Is tried on captions that are too long for it.

    Returns:
        The token; None where it only leaves out what does not fit.
    """
    length = tokenizer.context_length
    rows = [tokenizer.encode(text * 2 * length) for text in _LONG_CAPTIONS]
    first, second = (row[-1] if len(row) == length else tokenizer.pad_id for row in rows)
    return first if first == second else None


def truncate_tokens(
    tokens: Int64[Tensor, "B S"], length: int, pad_id: int, end: int | None
) -> Int64[Tensor, "B T"]:
    """Captions of at most ``length`` tokens, which end as their tokenizer ends them.

    Args:
        tokens: Padded captions.
        length: Most tokens of a caption, start and end included.
        pad_id: What ``tokens`` are padded with.
        end: See ``truncation_token``.

    Returns:
        The captions, in memory of their own where any was cut.

    Examples:
        >>> truncate_tokens(torch.tensor([[8, 1, 2, 3, 9], [8, 1, 9, 0, 0]]), 3, 0, end=9).tolist()
        [[8, 1, 9], [8, 1, 9]]
    """
    if tokens.shape[1] <= length:
        return tokens
    cut = tokens[:, :length].clone()
    if end is not None:
        # The padding's id may stand for a word too (CLIP's "!"): look at all that is cut away.
        reach_the_end = (tokens[:, length - 1 :] != pad_id).any(dim=1)
        cut[reach_the_end, length - 1] = end
    return cut
