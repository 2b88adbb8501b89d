"""Intervals of metrics, and paired comparison of models on the same units."""

from clipkit.evaluation.comparison.content import (
    Change,
    Comparison,
    Estimate,
    PairComparison,
    Resampling,
)
from clipkit.evaluation.comparison.intervals import metric_intervals

__all__ = [
    "Change",
    "Comparison",
    "Estimate",
    "PairComparison",
    "Resampling",
    "metric_intervals",
]
