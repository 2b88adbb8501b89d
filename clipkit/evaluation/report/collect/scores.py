"""What a query of a retrieval finds: the best candidates, the right ones, and their rank."""

from __future__ import annotations

from typing import Final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

_NUM_HITS: Final = 5


def matches(
    pairs: Int64[Tensor, "pairs 2"], num_candidates: int, queries: Int64[Tensor, " rows"]
) -> Bool[Tensor, "candidates rows"]:
    """Return which candidates are right, from pairs of a candidate and a query."""
    is_match = torch.zeros(num_candidates, len(queries), dtype=torch.bool)
    for column, query in enumerate(queries.tolist()):
        is_match[pairs[pairs[:, 1] == query, 0], column] = True
    return is_match


def best_match(scores: Float[Tensor, " N"], is_match: Bool[Tensor, " N"]) -> int:
    """Return the most similar right candidate."""
    return int(scores.masked_fill(~is_match, -torch.inf).argmax())


def rank_of_match(scores: Float[Tensor, " N"], is_match: Bool[Tensor, " N"]) -> int:
    """Return the rank of the best right candidate, from 1; a tie is never a win."""
    return 1 + int(((scores >= scores[is_match].amax()) & ~is_match).sum())


def best_hits(scores: Float[Tensor, " N"]) -> list[tuple[int, float]]:
    """Return the most similar candidates and their scores."""
    values, rows = scores.topk(min(_NUM_HITS, len(scores)))
    return list(zip(rows.tolist(), values.tolist(), strict=True))
