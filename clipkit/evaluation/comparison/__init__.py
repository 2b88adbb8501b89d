"""Intervals of metrics, and paired comparison of models on the same units."""

from clipkit.evaluation.comparison.as_json import comparison_json
from clipkit.evaluation.comparison.classes import class_changes
from clipkit.evaluation.comparison.compare import compare_outcomes
from clipkit.evaluation.comparison.content import (
    Change,
    Comparison,
    Estimate,
    PairComparison,
    Resampling,
)
from clipkit.evaluation.comparison.intervals import metric_intervals
from clipkit.evaluation.comparison.paired import aligned, holm, mcnemar_p_value, metric_changes
from clipkit.evaluation.comparison.sources import compare_records

__all__ = [
    "Change",
    "Comparison",
    "Estimate",
    "PairComparison",
    "Resampling",
    "aligned",
    "class_changes",
    "compare_outcomes",
    "compare_records",
    "comparison_json",
    "holm",
    "mcnemar_p_value",
    "metric_changes",
    "metric_intervals",
]
