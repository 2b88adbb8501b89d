"""Rows of the metric tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Result:
    """One row of the metric tables.

    Args:
        name: Name of the evaluation, for example "Unseen drawings".
        metrics: Metric keys as returned by the evaluators, with values from 0 to 1.
        note: A few words shown under the name, for example "1,620 images by OpenMoji".
        is_baseline: True for a reference value (chance, another trainer), which is shown in grey.
        intervals: Lower and upper limit of the confidence interval, by metric key; metrics without
            an interval are left out.
        details: Values that are no metrics, such as the number of samples with two modalities.
    """

    name: str
    metrics: Mapping[str, float]
    note: str = ""
    is_baseline: bool = False
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    details: Mapping[str, float] = field(default_factory=dict)
