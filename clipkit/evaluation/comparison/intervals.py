"""Bootstrap intervals of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import numpy as np

from clipkit.evaluation.comparison.content import Resampling
from clipkit.evaluation.comparison.resampling import bootstrap_weights
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Outcomes

Interval = tuple[float, float]


def metric_intervals(
    parts: Sequence[Outcomes], resampling: Resampling = Resampling()
) -> dict[str, Interval]:
    """Compute the bootstrap interval of every metric of a measurement.

    Groups of units are drawn with replacement, all metrics are computed from each sample, and
    ``percentile_interval`` takes the quantiles.

    Args:
        parts: Outcomes of a measurement.
        resampling: Confidence, number of samples and seed.

    Returns:
        Lower and upper end by the key of the metric. A metric is left out if no sample changes it
        (all answers are right): the samples then contain no information on its error.

    Examples:
        >>> right = torch.arange(100) < 80
        >>> keys = tuple(map(str, range(100)))
        >>> outcomes = Outcomes("means", keys, keys, {"acc": right * 1.0})
        >>> low, high = metric_intervals([outcomes])["acc"]
        >>> 0.70 < low < 0.75 and 0.85 < high < 0.90
        True
    """
    intervals = {}
    for part in parts:
        num_groups = len(set(part.groups))
        for name, values in metric_samples(part, resampling).items():
            interval = percentile_interval(values, num_groups, resampling.confidence)
            if interval is not None:
                intervals[name] = interval
    return intervals


def metric_samples(
    outcomes: Outcomes, resampling: Resampling
) -> Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]:
    """Compute every metric on each bootstrap sample.

    Args:
        outcomes: Outcomes of one part of a measurement.
        resampling: Number of samples and seed. Outcomes with the same units in the same order get
            the same samples.

    Returns:
        One value per sample by the key of the metric; NaN where the metric is not defined.
    """
    rows = [
        outcome_metrics(outcomes, weights)
        for weights in bootstrap_weights(outcomes.groups, resampling.replicates, resampling.seed)
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.array([row.get(name, math.nan) for row in rows]) for name in names}


def percentile_interval(
    values: np.ndarray[tuple[int], np.dtype[np.float64]], num_groups: int, confidence: float
) -> Interval | None:
    """Return the expanded percentile interval of bootstrap samples.

    Percentiles need no assumption on the metric and stay in its range; BCa intervals would need
    each metric without each group in turn, which takes N more evaluations. Percentiles of few
    groups are too narrow by the factor that separates the normal from the t distribution and N from
    N - 1; the quantiles are taken further out by it (Hesterberg 2015, What teachers should know
    about the bootstrap, section 5.3).

    Args:
        values: Value of the metric on each sample; NaN where it is not defined.
        num_groups: Number of groups that were drawn from.
        confidence: Probability of coverage, such as 0.95.

    Returns:
        Lower and upper end; None if the samples are all equal, half of them are not defined, or
        there are fewer than two groups.
    """
    defined = values[~np.isnan(values)]
    if num_groups < 2 or 2 * len(defined) <= len(values) or np.ptp(defined) == 0:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    wide = _t_quantile(z, num_groups - 1) * math.sqrt(num_groups / (num_groups - 1))
    tail = NormalDist().cdf(-wide)
    low, high = np.quantile(defined, (tail, 1 - tail))
    return float(low), float(high)


def _t_quantile(z: float, freedom: int) -> float:
    """Return the quantile of the t distribution that belongs to a normal one (Hill 1970)."""
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
