"""Outcomes of retrieval: the ranks of each query's correct candidates, and their measures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.evaluation.outcomes.outcomes import Outcomes
from clipkit.metrics.query_values import query_measures
from clipkit.metrics.ranking import PairRanks

_RANK: Final = "rank"
_RSUM_KS: Final = (1, 5, 10)


def retrieval_outcomes(
    ranks: PairRanks,
    keys: Sequence[str],
    groups: Sequence[str],
    prefix: str,
    ks: Sequence[int] = (1, 5, 10),
) -> Outcomes:
    """Return the outcomes of retrieval in one direction.

    Args:
        ranks: Ranks of the correct pairs.
        keys: Name of each row on the side of the queries.
        groups: Group of each of these rows, such as the image of a caption.
        prefix: Text before the names of metrics: "text_to_image/" or "image_to_text/".
        ks: Numbers of best candidates that are considered.

    Returns:
        Outcomes of kind "retrieval" with the columns of ``query_measures``. Rows without a correct
        candidate are left out.

    Examples:
        >>> one, names = torch.eye(2), ("a", "b")
        >>> ranks, _ = pair_ranks(one, one, torch.tensor([[0, 0], [1, 1]]))
        >>> outcome_metrics(retrieval_outcomes(ranks, names, names, "image_to_text/", ks=(1,)))
        {'image_to_text/recall_at_1': 1.0, ..., 'image_to_text/median_rank': 1.0, ...}
    """
    rows, columns = query_measures(ranks, ks)
    queries = rows.tolist()
    return Outcomes(
        "retrieval",
        tuple(keys[row] for row in queries),
        tuple(groups[row] for row in queries),
        {name: column.cpu() for name, column in columns.items()},
        prefix,
    )


def retrieval_metrics(
    outcomes: Outcomes, weights: Float[Tensor, "samples N"]
) -> dict[str, Float[Tensor, " samples"]]:
    """Return the mean of each measure, and the median and mean rank, counted from 1."""
    total = weights.sum(1)
    values = {
        name: (weights * column).sum(1) / total
        for name, column in outcomes.columns.items()
        if name != _RANK
    }
    if _RANK in outcomes.columns:
        rank = outcomes.columns[_RANK] + 1
        values["median_rank"] = _median(rank, weights)
        values["mean_rank"] = (weights * rank).sum(1) / total
    return values


def recalls_only(outcomes: Outcomes, prefix: str) -> Outcomes:
    """Return outcomes of retrieval with nothing but recall at k.

    Args:
        outcomes: Outcomes of kind "retrieval".
        prefix: Text before the names of metrics.
    """
    return Outcomes(outcomes.kind, outcomes.keys, outcomes.groups, recalls_of(outcomes), prefix)


def recalls_of(outcomes: Outcomes) -> dict[str, Float[Tensor, " N"]]:
    """Return the columns with recall at k."""
    return {n: column for n, column in outcomes.columns.items() if n.startswith("recall_at_")}


def rsum_outcomes(image_to_text: Outcomes, text_to_image: Outcomes) -> Outcomes | None:
    """Return the outcomes of both directions by group, for the sum of recalls.

    Args:
        image_to_text: Outcomes with images as queries.
        text_to_image: Outcomes with texts as queries, with the same names of groups.

    Returns:
        Outcomes of kind "rsum", with one unit per group; None unless recall at 1, 5 and 10 was
        measured.
    """
    wanted = {f"recall_at_{k}" for k in _RSUM_KS}
    if not wanted <= image_to_text.columns.keys():
        return None
    parts = (image_to_text, text_to_image)
    names = tuple(dict.fromkeys(group for part in parts for group in part.groups))
    numbers = {name: number for number, name in enumerate(names)}
    columns: dict[str, Tensor] = {}
    for part in parts:
        number = torch.tensor([numbers[group] for group in part.groups])
        hits = torch.stack([part.columns[name] for name in sorted(wanted)], 1).sum(1)
        zeros = torch.zeros(len(names), dtype=torch.float64)
        columns[f"{part.prefix}hits"] = zeros.index_add(0, number, hits)
        columns[f"{part.prefix}queries"] = zeros.index_add(0, number, torch.ones_like(hits))
    return Outcomes("rsum", names, names, columns)


def rsum_metrics(
    outcomes: Outcomes, weights: Float[Tensor, "samples N"]
) -> dict[str, Float[Tensor, " samples"]]:
    """Return the sums of recall at 1, 5 and 10 of both directions, in percent: 0 to 600."""
    totals = {name: (weights * column).sum(1) for name, column in outcomes.columns.items()}
    directions = [name.removesuffix("hits") for name in totals if name.endswith("hits")]
    recalls = [totals[f"{d}hits"] / totals[f"{d}queries"] for d in directions]
    return {"rsum": 100 * torch.stack(recalls).sum(0)}


def _median(
    values: Int64[Tensor, " N"], weights: Float[Tensor, "samples N"]
) -> Float[Tensor, " samples"]:
    """Return the median of values that each occur ``weight`` times; NaN if none occurs."""
    ascending, order = values.sort()
    reached = weights[:, order].cumsum(1)
    half = reached[:, -1:] / 2
    lower, upper = (reached < half).sum(1), (reached <= half).sum(1).clamp(max=len(values) - 1)
    middle = (ascending[lower] + ascending[upper]).double() / 2
    return middle.where(half[:, 0] > 0, math.nan)
