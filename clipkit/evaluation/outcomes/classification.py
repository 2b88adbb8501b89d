"""Outcomes of single-label classification."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.evaluation.outcomes.outcomes import Outcomes, distinct_keys
from clipkit.metrics.functional import label_ranks
from clipkit.metrics.per_class import chosen_classes

_KS: Final = (1, 5)


def classification_outcomes(
    scores: Float[Tensor, "N C"],
    labels: Int64[Tensor, " N"],
    keys: Sequence[str],
    class_names: Sequence[str],
    groups: Sequence[str] | None = None,
) -> Outcomes:
    """Return the outcomes of a classifier.

    Args:
        scores: Score of each class for each image.
        labels: True class of each image.
        keys: Name of each image.
        class_names: Names of the C classes.
        groups: Group of each image; None if images are independent of one another.

    Returns:
        Outcomes of kind "classification" with the columns ``label``, ``chosen`` (the class with the
        greatest score, where a tie is never a win) and ``rank`` (of the true class, from 0).

    Raises:
        MetricError: If a score is NaN, or a label has no column.

    Examples:
        >>> scores, labels = torch.tensor([[0.1, 0.9], [0.2, 0.8]]), torch.tensor([1, 0])
        >>> outcomes = classification_outcomes(scores, labels, ["x", "y"], ["cat", "dog"])
        >>> outcomes.columns["rank"].tolist(), outcome_metrics(outcomes)["top1"]
        ([0, 1], 0.5)
    """
    columns = {
        "label": labels,
        "chosen": chosen_classes(scores, labels),
        "rank": label_ranks(scores, labels),
    }
    names = distinct_keys(keys)
    return Outcomes(
        "classification", names, tuple(groups or names), columns, class_names=tuple(class_names)
    )


def classification_metrics(outcomes: Outcomes, weights: Float[Tensor, " N"]) -> dict[str, float]:
    """Return top-1, top-5 (with five classes or more) and the mean recall of the classes."""
    label, rank = outcomes.columns["label"], outcomes.columns["rank"]
    num_classes = len(outcomes.class_names)
    total = weights.sum()
    values = {
        f"top{k}": float((weights * (rank < k)).sum() / total) for k in _KS if k <= num_classes
    }
    support = torch.zeros(num_classes, dtype=torch.float64).index_add_(0, label, weights)
    hits = torch.zeros_like(support).index_add_(0, label, weights * (rank == 0))
    occurs = support > 0
    values["mean_per_class_recall"] = float((hits[occurs] / support[occurs]).mean())
    return values
