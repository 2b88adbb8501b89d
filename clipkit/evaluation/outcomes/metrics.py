"""Metrics as functions of outcomes and of the weights of units."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.errors import MetricError
from clipkit.evaluation.outcomes.by_group import KIND, by_group_metrics
from clipkit.evaluation.outcomes.classification import classification_metrics
from clipkit.evaluation.outcomes.means import mean_metrics
from clipkit.evaluation.outcomes.multi_label import multi_label_metrics
from clipkit.evaluation.outcomes.outcomes import Outcomes
from clipkit.evaluation.outcomes.retrieval import retrieval_metrics, rsum_metrics
from clipkit.evaluation.outcomes.translation import translation_metrics
from clipkit.evaluation.outcomes.turns import KIND as TURNS
from clipkit.evaluation.outcomes.turns import turn_metrics
from clipkit.evaluation.outcomes.worst_group import worst_group_metrics

OutcomeMetrics = Callable[[Outcomes, Float[Tensor, " N"]], dict[str, float]]
"""Function of outcomes and the weight of each unit: the metrics, without the prefix."""

SampleMetrics = Callable[
    [Outcomes, Float[Tensor, "samples N"]], dict[str, Float[Tensor, " samples"]]
]
"""The same for several weightings at once."""

_AT_ONCE: Final[Mapping[str, SampleMetrics]] = {
    "means": mean_metrics,
    "classification": classification_metrics,
    "retrieval": retrieval_metrics,
    "rsum": rsum_metrics,
    TURNS: turn_metrics,
}


_NUMBERS_AT_ONCE: Final = 2**20
"""Values of classes that are computed together: 8 MB."""


def _for_one(metrics_of: SampleMetrics) -> OutcomeMetrics:
    """Return the function for one weighting."""

    def metrics(outcomes: Outcomes, weights: Float[Tensor, " N"]) -> dict[str, float]:
        values = metrics_of(outcomes, weights[None])
        return {name: float(value[0]) for name, value in values.items()}

    return metrics


OUTCOME_KINDS: Final[Mapping[str, OutcomeMetrics]] = {
    **{kind: _for_one(metrics_of) for kind, metrics_of in _AT_ONCE.items()},
    "multi-label": multi_label_metrics,
    "translation": translation_metrics,
    "worst-group": worst_group_metrics,
    f"{KIND}classification": by_group_metrics(
        _for_one(classification_metrics), ("top1", "top5", "mean_per_class_recall")
    ),
}
"""How metrics follow from outcomes, by the kind of the outcomes."""


def outcome_metrics(
    outcomes: Outcomes, weights: Float[Tensor, " N"] | None = None
) -> dict[str, float]:
    """Compute the metrics of outcomes.

    Args:
        outcomes: Outcome of each unit.
        weights: How often each unit counts: a bootstrap gives the number of times that it was
            drawn. None for once each.

    Returns:
        Value of each metric, its name after ``outcomes.prefix``. A metric that is not defined for
        these weights (a mean over no units) is NaN.

    Raises:
        MetricError: If the kind is unknown, or there are no units.

    Examples:
        >>> outcomes = Outcomes("means", ("a", "b"), ("a", "b"), {"acc": torch.tensor([1.0, 0.0])})
        >>> outcome_metrics(outcomes), outcome_metrics(outcomes, torch.tensor([3.0, 1.0]))
        ({'acc': 0.5}, {'acc': 0.75})
    """
    if outcomes.kind not in OUTCOME_KINDS:
        known = ", ".join(OUTCOME_KINDS)
        raise MetricError(f"outcomes: expected one of the kinds {known}, got {outcomes.kind!r}")
    if not len(outcomes):
        raise MetricError("outcomes: expected at least one unit, got none")
    counts = torch.ones(len(outcomes)) if weights is None else weights
    values = OUTCOME_KINDS[outcomes.kind](outcomes, counts.double())
    return {f"{outcomes.prefix}{name}": value for name, value in values.items()}


def sample_metrics(
    outcomes: Outcomes, weights: Float[Tensor, "samples N"]
) -> dict[str, Float[Tensor, " samples"]]:
    """Compute the metrics of outcomes for several weightings, such as those of a bootstrap.

    Args:
        outcomes: Outcome of each unit.
        weights: How often each unit counts in each sample; see ``outcome_metrics``.

    Returns:
        Values of each metric, its name after ``outcomes.prefix``; NaN where it is not defined.

    Raises:
        MetricError: If the kind is unknown, or there are no units.
    """
    if outcomes.kind in _AT_ONCE and len(outcomes):
        at_once = max(1, _NUMBERS_AT_ONCE // max(1, len(outcomes.class_names)))
        blocks = torch.split(weights.double(), at_once)
        parts = [_AT_ONCE[outcomes.kind](outcomes, block) for block in blocks]
        return {
            f"{outcomes.prefix}{name}": torch.cat([values[name] for values in parts])
            for name in parts[0]
        }
    rows = [outcome_metrics(outcomes, row) for row in weights]
    names = dict.fromkeys(name for row in rows for name in row)
    return {
        name: torch.tensor([row.get(name, math.nan) for row in rows], dtype=torch.float64)
        for name in names
    }
