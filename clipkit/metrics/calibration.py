"""Calibration: how far the confidence of a classifier is from its accuracy."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from clipkit.errors import MetricError

_LOG: Final = logging.getLogger(__name__)

NUM_BINS: Final = 15
"""Bins of equal width of a reliability diagram, as in Guo et al. 2017."""

_SMALLEST_SCALE: Final[float] = 1e-4
_LARGEST_SCALE: Final[float] = 1e4
_HALVINGS: Final = 50
_ROWS: Final = 4096


@dataclass(frozen=True, slots=True)
class Reliability:
    """Reliability diagram: confidence and accuracy of the predictions in each bin of confidence.

    Args:
        upper: Upper edge of each bin of (0, 1]; a bin does not include its lower edge.
        weight: Number of predictions, or sum of their weights.
        confidence: Mean confidence of the bin's predictions; 0 for an empty bin.
        accuracy: Share of the bin's predictions that are correct; 0 for an empty bin.
    """

    upper: Float[Tensor, " bins"]
    weight: Float[Tensor, " bins"]
    confidence: Float[Tensor, " bins"]
    accuracy: Float[Tensor, " bins"]

    def error(self) -> float:
        """Return the expected calibration error: the mean gap of the bins, by their weights."""
        gaps = (self.confidence - self.accuracy).abs()
        return float((self.weight * gaps).sum() / self.weight.sum())


def reliability(
    confidence: Float[Tensor, " N"],
    correct: Shaped[Tensor, " N"],
    weights: Float[Tensor, " N"] | None = None,
    num_bins: int = NUM_BINS,
) -> Reliability:
    """Compute a reliability diagram with bins of equal width.

    Args:
        confidence: Probability of the predicted class, 0 to 1.
        correct: Whether the prediction is correct.
        weights: How often each prediction counts; None for once each.
        num_bins: Number of bins.

    Returns:
        The diagram; float64.

    Raises:
        MetricError: If a confidence is not between 0 and 1.

    Examples:
        >>> diagram = reliability(torch.tensor([0.9, 0.9, 0.4]), torch.tensor([1, 0, 0]))
        >>> round(diagram.error(), 3)
        0.4
    """
    counts = torch.ones(len(confidence)).double() if weights is None else weights.double()
    upper, *rows = _binned(confidence, correct, counts[None], num_bins)
    return Reliability(upper.double(), *(values[0] for values in rows))


def calibration_errors(
    confidence: Float[Tensor, " N"],
    correct: Shaped[Tensor, " N"],
    weights: Float[Tensor, "samples N"],
) -> Float[Tensor, " samples"]:
    """Compute the expected calibration error for several weightings; see ``reliability``."""
    _, weight, mean, accuracy = _binned(confidence, correct, weights, NUM_BINS)
    return (weight * (mean - accuracy).abs()).sum(1) / weight.sum(1)


def _binned(
    confidence: Float[Tensor, " N"],
    correct: Shaped[Tensor, " N"],
    weights: Float[Tensor, "samples N"],
    num_bins: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the upper edges, and weight, mean confidence and accuracy of the bins."""
    if not ((confidence >= 0) & (confidence <= 1)).all():
        raise MetricError("confidence: expected probabilities from 0 to 1, got others or NaN")
    upper = torch.linspace(0, 1, num_bins + 1, dtype=confidence.dtype)[1:]
    number = torch.bucketize(confidence, upper).clamp(max=num_bins - 1)
    zeros = torch.zeros(len(weights), num_bins, dtype=torch.float64)

    def summed(values: Float[Tensor, "samples N"]) -> Float[Tensor, "samples bins"]:
        return zeros.index_add(1, number, values)

    weight = summed(weights)
    some = torch.where(weight > 0, weight, 1.0)
    return upper, weight, summed(weights * confidence) / some, summed(weights * correct) / some


def confidences(scores: Float[Tensor, "N C"], logit_scale: float = 1.0) -> Float[Tensor, " N"]:
    """Return the greatest probability of each row: of the softmax of the scaled scores."""
    parts = (rows.double() * logit_scale for rows in torch.split(scores, _ROWS))
    return torch.cat([logits.softmax(1).amax(1) for logits in parts])


@torch.no_grad()
def fit_logit_scale(scores: Float[Tensor, "N C"], labels: Int64[Tensor, " N"]) -> float:
    """Find the factor that makes the best calibrated logits of scores (Guo et al. 2017).

    It minimises the mean cross-entropy, which is convex in the factor, by bisection in float64. The
    temperature of logits ``scale * scores`` is ``scale`` divided by the result.

    Args:
        scores: Score of each class for each image.
        labels: True class of each image.

    Returns:
        A factor between 1e-4 and 1e4. A limit is returned, with a warning, if no finite factor is
        the best one: all images are classified correctly, or the scores are no better than chance.

    Raises:
        MetricError: If there is no image, or a score is NaN or infinite.

    Examples:
        >>> scores = torch.tensor([[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> scale = fit_logit_scale(scores, torch.tensor([0, 0, 0, 1]))  # correct in 3 of 4
        >>> round(confidences(scores, scale)[0].item(), 6)
        0.75
    """
    if not len(labels):
        raise MetricError("calibration: expected at least one image, got none")
    if not scores.isfinite().all():
        raise MetricError("calibration: expected finite scores, got NaN or infinity")
    of_labels = scores.gather(1, labels[:, None]).double().sum()

    def slope(scale: float) -> float:
        parts = (rows.double() for rows in torch.split(scores, _ROWS))
        means = [((scale * rows).softmax(1) * rows).sum() for rows in parts]
        return float(torch.stack(means).sum() - of_labels)

    low, high = _SMALLEST_SCALE, _LARGEST_SCALE
    if slope(high) <= 0:
        _LOG.warning(
            "calibration: no temperature is the best one, because all %d images of the calibration "
            "split are classified correctly; using the lowest", len(labels),
        )  # fmt: skip
        return high
    if slope(low) >= 0:
        _LOG.warning(
            "calibration: no temperature is the best one, because the scores of the %d images of "
            "the calibration split are no better than chance; using the highest", len(labels),
        )  # fmt: skip
        return low
    for _ in range(_HALVINGS):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if slope(middle) < 0 else (low, middle)
    return float((low * high) ** 0.5)
