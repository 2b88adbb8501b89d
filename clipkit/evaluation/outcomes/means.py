"""Metrics that are weighted means over units."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from clipkit.evaluation.outcomes.outcomes import Outcomes


def mean_metrics(
    outcomes: Outcomes, weights: Float[Tensor, "samples N"]
) -> dict[str, Float[Tensor, " samples"]]:
    """Return the weighted means of each column; units with NaN in a column are left out of it."""
    means = {}
    for name, column in outcomes.columns.items():
        counts = weights * ~column.isnan()
        means[name] = (column.nan_to_num() * counts).sum(1) / counts.sum(1)
    return means
