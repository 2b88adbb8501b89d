"""All metrics of a measurement within each group of units, the worst group, and the gap."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.evaluation.outcomes.outcomes import Outcomes
from clipkit.metrics.direction import lower_is_better

KIND: Final = "by-group-of-"
"""Beginning of the kind of outcomes by group; the kind of the complete outcomes follows."""

_GROUP: Final = "group/"


def by_group_outcomes(outcomes: Outcomes, attributes: Sequence[str]) -> Outcomes:
    """Return outcomes whose metrics are those of each group.

    Unlike ``worst_group_outcomes`` they include metrics that are no means over units, such as the
    mean recall of the classes.

    Args:
        outcomes: Outcomes of kind "classification".
        attributes: Group of each unit that is compared, such as its region.

    Returns:
        Outcomes of kind "by-group-of-classification".

    Examples:
        >>> from clipkit.evaluation.outcomes.classification import classification_outcomes
        >>> scores, labels = torch.eye(2)[[0, 1, 1]], torch.tensor([0, 1, 0])
        >>> outcomes = classification_outcomes(scores, labels, ["x", "y", "z"], ["cat", "dog"])
        >>> metrics = outcome_metrics(by_group_outcomes(outcomes, ["asia", "europe", "europe"]))
        >>> metrics["group/europe/top1"], metrics["worst_group/top1"], metrics["group_gap/top1"]
        (0.5, 0.5, 0.5)
    """
    members = {
        f"{_GROUP}{name}": torch.tensor([attribute == name for attribute in attributes])
        for name in sorted(set(attributes))
    }
    return replace(outcomes, kind=KIND + outcomes.kind, columns={**outcomes.columns, **members})


def by_group_metrics(
    metrics_of: Callable[[Outcomes, Float[Tensor, " N"]], dict[str, float]], names: Sequence[str]
) -> Callable[[Outcomes, Float[Tensor, " N"]], dict[str, float]]:
    """Return the function that computes some metrics of each group.

    Args:
        metrics_of: Function that computes the metrics of complete outcomes.
        names: The metrics; one that the outcomes do not have is left out.
    """

    def metrics(outcomes: Outcomes, weights: Float[Tensor, " N"]) -> dict[str, float]:
        is_member = {n: c for n, c in outcomes.columns.items() if n.startswith(_GROUP)}
        columns = {n: c for n, c in outcomes.columns.items() if n not in is_member}
        complete = replace(outcomes, columns=columns)
        within = {group: metrics_of(complete, weights * c) for group, c in is_member.items()}
        values: dict[str, float] = {}
        for name in names:
            of_groups = {group: v[name] for group, v in within.items() if name in v}
            occurring = [value for value in of_groups.values() if not math.isnan(value)]
            if not occurring:
                continue
            values |= {f"{group}/{name}": value for group, value in of_groups.items()}
            lowest, highest = min(occurring), max(occurring)
            values[f"worst_group/{name}"] = highest if lower_is_better(name) else lowest
            values[f"group_gap/{name}"] = highest - lowest
        return values

    return metrics
