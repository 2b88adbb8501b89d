"""Thresholds of scores, fitted for F1 on a calibration split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import MetricError, check_choice
from clipkit.types import IGNORE_LABEL

THRESHOLDS: Final = ("global", "per-class")
"""Kinds of thresholds: one for all classes, or one for each class."""


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Thresholds of scores: a class is predicted if its score is at least its threshold.

    Args:
        values: Threshold of each class.
        without_own: Numbers of the classes that got the global threshold although each class was to
            have its own: none or all of the calibration images have the class.
    """

    values: Float[Tensor, " C"]
    without_own: tuple[int, ...] = ()


def fit_thresholds(
    scores: Float[Tensor, "N C"], targets: Int64[Tensor, "N C"], kind: str = "global"
) -> Thresholds:
    """Fit the thresholds with the greatest F1: of all decisions together, or of each class.

    Candidates are the scores themselves; of several with the same F1 the greatest is taken.

    Args:
        scores: Score of each class for each image of the calibration split.
        targets: 1 where a class applies, 0 where it does not, ``IGNORE_LABEL`` where it is unknown.
        kind: "global" or "per-class".

    Raises:
        ConfigError: If the kind is unknown.
        MetricError: If no class, or every one, applies to every image, or a score is NaN.

    Examples:
        >>> scores = torch.tensor([[0.9, 0.5], [0.8, 0.4], [0.1, 0.3]])
        >>> targets = torch.tensor([[1, 1], [1, 0], [0, 0]])
        >>> fit_thresholds(scores, targets, "per-class").values.tolist()
        [0.800000011920929, 0.5]
    """
    check_choice("thresholds", kind, THRESHOLDS)
    if scores.isnan().any():
        raise MetricError("scores: expected numbers, got NaN")
    known = targets != IGNORE_LABEL
    everywhere = _best(scores[known], targets[known])
    if everywhere is None:
        raise MetricError(
            "calibration: expected images with and without a class in the calibration split, got "
            "only one kind; thresholds cannot be fitted"
        )
    values = torch.full((scores.shape[1],), everywhere, dtype=scores.dtype)
    without_own = []
    if kind == "per-class":
        for number in range(scores.shape[1]):
            rows = known[:, number]
            own = _best(scores[rows, number], targets[rows, number])
            if own is None:
                without_own.append(number)
            else:
                values[number] = own
    return Thresholds(values, tuple(without_own))


def _best(scores: Float[Tensor, " samples"], targets: Int64[Tensor, " samples"]) -> float | None:
    """Return the score with the greatest F1 as a threshold; None without positives or negatives."""
    num_positives = int(targets.sum())
    if num_positives in (0, len(targets)):
        return None
    ordered, order = scores.sort(descending=True)
    is_last = torch.ones_like(ordered, dtype=torch.bool)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    ends = is_last.nonzero().flatten()
    hits = targets[order].cumsum(0)[ends].double()
    f1 = 2 * hits / (ends + 1 + num_positives)
    # The first of equals is the greatest score.
    best = int((f1 == f1.max()).nonzero()[0])
    return float(ordered[ends[best]])
