"""Values of each group of units, such as a region, and of the worst group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.evaluation.outcomes.outcomes import Outcomes

_ATTRIBUTE: Final = "attribute"


def worst_group_outcomes(
    values: Mapping[str, Float[Tensor, " N"]], attributes: Sequence[str], outcomes: Outcomes
) -> Outcomes:
    """Return outcomes that compare groups of units.

    Args:
        values: Value of each unit by the name of its metric; greater is better.
        attributes: Group of each unit that is compared, such as its region.
        outcomes: Outcomes of the same units, for their keys and independent groups.

    Returns:
        Outcomes of kind "worst-group". ``class_names`` are the names of the compared groups.

    Examples:
        >>> units = Outcomes("means", ("a", "b", "c"), ("a", "b", "c"), {})
        >>> hits = {"top1": torch.tensor([1.0, 0.0, 1.0])}
        >>> outcome_metrics(worst_group_outcomes(hits, ["asia", "asia", "europe"], units))
        {'group/asia/top1': 0.5, 'group/europe/top1': 1.0, 'worst_group/top1': 0.5, ...}
    """
    names = sorted(set(attributes))
    numbers = {name: number for number, name in enumerate(names)}
    columns = {name: column.float() for name, column in values.items()}
    columns[_ATTRIBUTE] = torch.tensor([numbers[name] for name in attributes], dtype=torch.int64)
    return Outcomes(
        "worst-group", outcomes.keys, outcomes.groups, columns, outcomes.prefix, tuple(names)
    )


def worst_group_metrics(outcomes: Outcomes, weights: Float[Tensor, " N"]) -> dict[str, float]:
    """Return the mean of each group, the smallest mean, and the gap to the greatest one."""
    attribute = outcomes.columns[_ATTRIBUTE]
    names = outcomes.class_names
    zeros = torch.zeros(len(names), dtype=torch.float64)
    counts = zeros.index_add(0, attribute, weights)
    metrics = dict[str, float]()
    for name, column in outcomes.columns.items():
        if name == _ATTRIBUTE:
            continue
        means = zeros.index_add(0, attribute, weights * column) / counts
        groups = zip(names, means.tolist(), strict=True)
        metrics |= {f"group/{group}/{name}": mean for group, mean in groups}
        occurring = means[counts > 0]
        worst, best = float(occurring.min()), float(occurring.max())
        metrics |= {f"worst_group/{name}": worst, f"group_gap/{name}": best - worst}
    return metrics
