"""Measures of each query of a retrieval, from the ranks of its correct candidates."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from clipkit.metrics.ranking import PairRanks


def query_measures(
    ranks: PairRanks, ks: Sequence[int] = (1, 5, 10)
) -> tuple[Int64[Tensor, " queries"], dict[str, Tensor]]:
    """Compute the measures of each query that has R >= 1 correct candidates.

    The place of a candidate is the number of candidates before it. An incorrect candidate with the
    same score is before a correct one.

    Args:
        ranks: Ranks of the correct pairs in one direction.
        ks: Numbers of best candidates that are considered.

    Returns:
        Rows of the Q queries, ascending, and one value of each query by name. ``rank`` is the
        number of incorrect candidates before the best correct one, int64. ``recall_at_K``, for each
        K, is 1 if a correct candidate is among the first K, otherwise 0 (the convention of
        CLIP-like papers; also called hit rate). ``map_at_K``, for the largest K, is the sum of the
        precision at the places of the correct candidates among the first K, divided by R
        (``map_cut`` of trec_eval). ``ndcg_at_K``, for the largest K, has gains of 0 and 1
        (Järvelin & Kekäläinen 2002). ``r_precision`` is the share of correct candidates among the
        first R, and ``map_at_r`` is ``map_at_K`` with K = R (Musgrave et al. 2020, section 3.2).

    Examples:
        >>> one, pairs = torch.eye(3), torch.tensor([[0, 0], [0, 1], [1, 1]])
        >>> rows, values = query_measures(pair_ranks(one, one, pairs)[0], ks=(1,))
        >>> rows.tolist(), values["rank"].tolist(), values["r_precision"].tolist()
        ([0, 1], [0, 0], [0.5, 1.0])
    """
    queries, number, sizes = torch.unique(ranks.query, return_inverse=True, return_counts=True)
    num_correct = sizes.double()
    place = ranks.correct + ranks.incorrect
    precision = (ranks.correct + 1).double() / (place + 1)

    def total(values: Tensor) -> Tensor:
        return torch.zeros_like(num_correct).index_add_(0, number, values.double())

    best = ranks.correct == 0
    rank = torch.empty_like(sizes)
    rank[number[best]] = ranks.incorrect[best]
    last = max(ks)
    in_first_r = place < sizes[number]
    ideal = _discounts(last, num_correct).cumsum(0)[sizes.clamp(max=last) - 1]
    gains = (place < last) / (place + 2).double().log2()
    return queries, {
        "rank": rank,
        **{f"recall_at_{k}": (rank < k).double() for k in ks},
        f"map_at_{last}": total(precision * (place < last)) / num_correct,
        f"ndcg_at_{last}": total(gains) / ideal,
        "r_precision": total(in_first_r) / num_correct,
        "map_at_r": total(precision * in_first_r) / num_correct,
    }


def _discounts(k: int, like: Tensor) -> Tensor:
    """Return the discounts of the first ``k`` places."""
    places = torch.arange(k, dtype=torch.float64, device=like.device)
    return 1 / (places + 2).log2()
