"""Bootstrap intervals of metrics."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import Final

import numpy as np

from clipkit.evaluation.comparison.content import Resampling
from clipkit.evaluation.comparison.resampling import bootstrap_weights
from clipkit.evaluation.outcomes.metrics import outcome_metrics, sample_metrics
from clipkit.evaluation.outcomes.outcomes import Outcomes

_ROUNDING: Final = 1e-9
"""Difference that the order of a sum can make."""
Interval = tuple[float, float]
"""Lower and upper end."""
Samples = np.ndarray[tuple[int], np.dtype[np.float64]]
"""Value of a metric on each bootstrap sample."""


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
        Lower and upper end by the key of the metric. A metric is left out if the samples cannot
        tell its error; see ``percentile_interval``.

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
        values, num_groups = outcome_metrics(part), len(set(part.groups))
        for name, samples in metric_samples(part, resampling).items():
            interval = percentile_interval(
                values.get(name, math.nan), samples, num_groups, resampling.confidence
            )
            if interval is not None:
                intervals[name] = interval
    return intervals


def metric_samples(outcomes: Outcomes, resampling: Resampling) -> Mapping[str, Samples]:
    """Compute every metric on each bootstrap sample.

    Args:
        outcomes: Outcomes of one part of a measurement.
        resampling: Number of samples and seed. Outcomes with the same units in the same order get
            the same samples.

    Returns:
        One value per sample by the key of the metric; NaN where the metric is not defined.
    """
    blocks = [
        (len(weights), sample_metrics(outcomes, weights))
        for weights in bootstrap_weights(outcomes.groups, resampling.replicates, resampling.seed)
    ]
    names = dict.fromkeys(name for _, values in blocks for name in values)
    return {
        name: np.concatenate([
            values[name].numpy() if name in values else np.full(size, math.nan)
            for size, values in blocks
        ])
        for name in names
    }  # fmt: skip


def percentile_interval(
    value: float, samples: Samples, num_groups: int, confidence: float
) -> Interval | None:
    """Return the expanded percentile interval of bootstrap samples.

    Percentiles need no assumption on the metric and stay in its range; BCa intervals would need
    each metric without each group in turn, which takes N more evaluations. Percentiles of few
    groups are too narrow by the factor that separates the normal from the t distribution and N from
    N - 1; the quantiles are taken further out by it (Hesterberg 2015, What teachers should know
    about the bootstrap, section 5.3).

    Args:
        value: Value of the metric on the data.
        samples: Its value on each bootstrap sample; NaN where it is not defined.
        num_groups: Number of groups that were drawn from.
        confidence: Probability of coverage, such as 0.95.

    Returns:
        Lower and upper end; None if there are fewer than two groups, half of the samples are not
        defined, all of them are equal (all answers are right), or ``value`` is outside of the
        interval: samples of a metric such as a small calibration error are all greater than it.
    """
    defined = samples[~np.isnan(samples)]
    if num_groups < 2 or 2 * len(defined) <= len(samples) or np.ptp(defined) == 0:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    wide = _t_quantile(z, num_groups - 1) * math.sqrt(num_groups / (num_groups - 1))
    tail = NormalDist().cdf(-wide)
    low, high = np.quantile(defined, (tail, 1 - tail))
    is_inside = low - _ROUNDING <= value <= high + _ROUNDING
    return (float(low), float(high)) if is_inside else None


def _t_quantile(z: float, freedom: int) -> float:
    """Return the quantile of the t distribution that belongs to a normal one (Hill 1970)."""
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
