"""Metrics that are means over units."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from clipkit.evaluation.outcomes.outcomes import Outcomes


def mean_metrics(outcomes: Outcomes, weights: Float[Tensor, " N"]) -> dict[str, float]:
    """Return the weighted mean of each column; units with NaN in a column are left out of it."""
    means = {}
    for name, column in outcomes.columns.items():
        counts = weights * ~column.isnan()
        means[name] = float((column.nan_to_num() * counts).sum() / counts.sum())
    return means
