"""Precision, recall and F1 of every class, confusions, and mean average precision."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import MetricError
from clipkit.metrics.functional import label_ranks
from clipkit.types import IGNORE_LABEL


@dataclass(frozen=True, slots=True)
class ClassScores:
    """Metrics of each class; float64."""

    # share of correct samples among those predicted as the class; 0 if there are none
    precision: Float[Tensor, " C"]
    # share of correct samples among those of the class; NaN if the class does not occur
    recall: Float[Tensor, " C"]
    # harmonic mean of precision and recall; NaN if the class does not occur
    f1: Float[Tensor, " C"]
    support: Int64[Tensor, " C"]  # number of samples of the class

    def macro(self) -> dict[str, float]:
        """Compute the means over the classes that occur, with equal weight per class."""
        occurs = self.support > 0
        if not occurs.any():
            raise MetricError("labels: expected at least one sample with a label, got none")
        return {
            "macro_precision": float(self.precision[occurs].mean()),
            "macro_recall": float(self.recall[occurs].mean()),
            "macro_f1": float(self.f1[occurs].mean()),
        }


@torch.no_grad()
def chosen_classes(
    scores: Float[Tensor, "N C"], labels: Int64[Tensor, " N"]
) -> Int64[Tensor, " N"]:
    """Predict the class of each sample; a tie with an incorrect class counts as incorrect.

    Examples:
        >>> chosen_classes(torch.tensor([[1.0, 1.0], [0.0, 1.0]]), torch.tensor([0, 1])).tolist()
        [1, 1]
    """
    right = label_ranks(scores, labels) == 0
    others = scores.scatter(1, labels[:, None], -torch.inf)
    return torch.where(right, labels, others.argmax(1))


def confusion_matrix(
    chosen: Int64[Tensor, " N"], labels: Int64[Tensor, " N"], num_classes: int
) -> Int64[Tensor, "C C"]:
    """Count how often each true class (row) was predicted as each class (column)."""
    places = labels * num_classes + chosen
    return torch.bincount(places, minlength=num_classes**2).view(num_classes, num_classes)


def class_scores(confusion: Int64[Tensor, "C C"]) -> ClassScores:
    """Compute precision, recall and F1 of each class."""
    right, support, taken = confusion.diagonal().double(), confusion.sum(1), confusion.sum(0)
    recall = right / support
    f1 = torch.where(support > 0, 2 * right / (support + taken), torch.nan)
    return ClassScores(right / taken.clamp(min=1), recall, f1, support)


@torch.no_grad()
def average_precisions(
    scores: Float[Tensor, "N C"], targets: Int64[Tensor, "N C"]
) -> Float[Tensor, " C"]:
    """Compute the average precision of each class: sum of (R_k - R_{k-1}) P_k over distinct scores.

    Samples of equal score enter together, so that their order has no effect.

    Args:
        scores: Score of each class, on any scale.
        targets: 1 where a class applies, 0 where it does not, ``IGNORE_LABEL`` where it is unknown.

    Returns:
        float64; NaN for a class that applies to no sample.

    Raises:
        MetricError: If shapes differ, a score is NaN, or a target has another value.

    Examples:
        >>> scores = torch.tensor([[0.9], [0.8], [0.1]])
        >>> round(average_precisions(scores, torch.tensor([[1], [0], [1]])).item(), 4)
        0.8333
    """
    check_targets(scores, targets)
    columns = zip(scores.T, targets.T, strict=True)
    values = [_average_precision(s[t != IGNORE_LABEL], t[t != IGNORE_LABEL]) for s, t in columns]
    return torch.tensor(values, dtype=torch.float64)


def check_targets(scores: Tensor, targets: Tensor) -> None:
    """Refuse scores and targets of several classes that no metric can use.

    Raises:
        MetricError: If shapes differ, a score is NaN, or a target is not 0, 1 or ``IGNORE_LABEL``.
    """
    if scores.ndim != 2 or scores.shape != targets.shape:
        raise MetricError(
            f"scores and targets: expected both [N C], got {list(scores.shape)} and "
            f"{list(targets.shape)}"
        )
    if scores.isnan().any():
        raise MetricError("scores: expected numbers, got NaN")
    wrong = (targets != 0) & (targets != 1) & (targets != IGNORE_LABEL)
    if wrong.any():
        raise MetricError(f"targets: expected 0, 1 or {IGNORE_LABEL}, got {int(targets[wrong][0])}")


def _average_precision(scores: Float[Tensor, " N"], targets: Int64[Tensor, " N"]) -> float:
    num_positives = int(targets.sum())
    if not num_positives:
        return float("nan")
    ordered, order = scores.sort(descending=True)
    hits = targets[order].cumsum(0)
    last_of_score = torch.ones_like(ordered, dtype=torch.bool)
    last_of_score[:-1] = ordered[1:] != ordered[:-1]
    ends = last_of_score.nonzero().flatten()
    hits = hits[ends].double()
    gained = hits.diff(prepend=hits.new_zeros(1))
    return float((gained / num_positives * hits / (ends + 1)).sum())


def mean_average_precision(scores: Float[Tensor, "N C"], targets: Int64[Tensor, "N C"]) -> float:
    """Compute the mean of ``average_precisions`` over the classes that apply to a sample.

    Args:
        scores: Score of each class, on any scale.
        targets: 1 where a class applies, 0 where it does not, ``IGNORE_LABEL`` where it is unknown.

    Raises:
        MetricError: If shapes differ, a score is NaN, a target has another value, or no class
            applies to any sample.
    """
    values = average_precisions(scores, targets)
    known = values[~values.isnan()]
    if not len(known):
        raise MetricError("targets: expected a class that applies to a sample, got none")
    return float(known.mean())
