"""Ranking of the right one of several candidates, as in visual dialogue."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import MetricError
from clipkit.metrics.functional import checked_ks


def candidate_measures(
    scores: Sequence[Float[Tensor, " candidates"]],
    correct: Sequence[int],
    relevance: Sequence[Float[Tensor, " candidates"] | None] | None = None,
    ks: Sequence[int] = (1, 5, 10),
) -> dict[str, Float[Tensor, " N"]]:
    """Compute the measures of visual dialogue for each query (Das et al. 2017, arXiv:1611.08669).

    The rank of the right candidate is counted from 1. A candidate with the same score is before it:
    a tie is never a win, and a model that scores all candidates equally gains nothing.

    Args:
        scores: Score of each of the K candidates of each of the N queries; K may differ.
        correct: Position of the right candidate of each query.
        relevance: How good each candidate is, from 0; None for a query, or all, if unknown.
        ks: Numbers of best candidates that are considered.

    Returns:
        One value per query, float64. ``mrr``: 1 / rank. ``recall_at_K``: 1 if the rank is at most
        K. ``rank``: the rank. ``ndcg``, if any query has relevance: discounted relevance of
        the first R candidates, by that of the best order, where R is the number of candidates with
        relevance above 0 (that of the Visual Dialog challenge); candidates with equal scores are in
        the worst order. NaN for a query without relevance, or of which no candidate has any.

    Raises:
        MetricError: If the lengths do not fit, a score is NaN, or a position is out of range.

    Examples:
        >>> measures = candidate_measures([torch.tensor([0.2, 0.9, 0.5])], [2], ks=(1, 2))
        >>> {name: value.item() for name, value in measures.items()}
        {'mrr': 0.5, 'recall_at_1': 0.0, 'recall_at_2': 1.0, 'rank': 2.0}
    """
    given = [None] * len(scores) if relevance is None else list(relevance)
    ranks = candidate_ranks(scores, correct)
    measures = {
        "mrr": 1 / ranks.double(),
        **{f"recall_at_{k}": (ranks <= k).double() for k in checked_ks(ks)},
        "rank": ranks.double(),
    }
    if len(given) != len(scores):
        raise MetricError(f"relevance: expected {len(scores)} queries, got {len(given)}")
    if any(one is not None for one in given):
        gains = [
            torch.nan if good is None else ranked_gain(own, good)
            for own, good in zip(scores, given, strict=True)
        ]
        measures["ndcg"] = torch.tensor(gains, dtype=torch.float64)
    return measures


def candidate_ranks(
    scores: Sequence[Float[Tensor, " candidates"]], correct: Sequence[int]
) -> Int64[Tensor, " N"]:
    """Return the rank of the right candidate of each query, from 1; a tie is never won.

    Raises:
        MetricError: If the lengths do not fit, a score is NaN, or a position is out of range.

    Examples:
        >>> candidate_ranks([torch.tensor([0.5, 0.5, 0.1])], [0]).tolist()
        [2]
    """
    if len(scores) != len(correct):
        raise MetricError(f"correct: expected {len(scores)} positions, got {len(correct)}")
    ranks = []
    for own, position in zip(scores, correct, strict=True):
        if own.isnan().any():
            raise MetricError("scores: expected numbers, got NaN")
        if not 0 <= position < len(own):
            raise MetricError(f"correct: expected 0 to {len(own) - 1}, got {position}")
        ranks.append(int((own >= own[position]).sum()))
    return torch.tensor(ranks, dtype=torch.int64)


def ranked_gain(
    scores: Float[Tensor, " candidates"], relevance: Float[Tensor, " candidates"]
) -> float:
    """Return the normalised discounted cumulative gain of one ranking; NaN without relevance.

    Of candidates with equal scores, those of less relevance come first.

    Raises:
        MetricError: If the shapes differ, or a relevance is negative or not finite.

    Examples:
        >>> round(ranked_gain(torch.tensor([3.0, 2.0, 1.0]), torch.tensor([0.0, 1.0, 0.5])), 4)
        0.4796
    """
    good = relevance.double().cpu()
    if good.shape != scores.shape or not (good.isfinite() & (good >= 0)).all():
        raise MetricError(
            f"relevance: expected {len(scores)} numbers of at least 0, got {good.tolist()!r:.80}"
        )
    size = int((good > 0).sum())
    if size == 0:
        return torch.nan
    worst_first = good.argsort(stable=True)
    order = worst_first[scores.double().cpu()[worst_first].argsort(descending=True, stable=True)]
    discounts = 1 / (torch.arange(size, dtype=torch.float64) + 2).log2()
    ideal = good.sort(descending=True).values[:size]
    return float((good[order][:size] * discounts).sum() / (ideal * discounts).sum())
