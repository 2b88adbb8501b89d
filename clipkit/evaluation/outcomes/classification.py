"""Outcomes of single-label classification, and their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.evaluation.outcomes.outcomes import Outcomes, distinct_keys
from clipkit.metrics.calibration import Reliability, calibration_errors, confidences, reliability
from clipkit.metrics.functional import label_ranks
from clipkit.metrics.per_class import chosen_classes

_KS: Final = (1, 5)
_CALIBRATED: Final = "calibrated_confidence"


def classification_outcomes(
    scores: Float[Tensor, "N C"],
    labels: Int64[Tensor, " N"],
    keys: Sequence[str],
    class_names: Sequence[str],
    groups: Sequence[str] | None = None,
    logit_scale: float | None = None,
    calibrated_scale: float | None = None,
) -> Outcomes:
    """Return the outcomes of a classifier.

    Args:
        scores: Score of each class for each image.
        labels: True class of each image.
        keys: Name of each image.
        class_names: Names of the C classes.
        groups: Group of each image; None if images are independent of one another.
        logit_scale: Factor that makes logits of the scores, which is 1 for logits; None if the
            scores have no probabilities.
        calibrated_scale: Factor that was fitted on other images; None if there is none.

    Returns:
        Outcomes of kind "classification" with the columns ``label``, ``chosen`` (the class with the
        greatest score, where a tie is never a win), ``rank`` (of the true class, from 0), and, for
        each of the factors, ``confidence`` and ``calibrated_confidence`` (greatest probability).

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
    for name, scale in (("confidence", logit_scale), (_CALIBRATED, calibrated_scale)):
        if scale is not None:
            columns[name] = confidences(scores, scale).float()
    names = distinct_keys(keys)
    return Outcomes(
        "classification", names, tuple(groups or names), columns, class_names=tuple(class_names)
    )


def classification_metrics(
    outcomes: Outcomes, weights: Float[Tensor, "samples N"]
) -> dict[str, Float[Tensor, " samples"]]:
    """Return accuracies, means over the classes that occur, and calibration errors.

    ``top5`` needs five classes or more, ``ece`` and ``ece_calibrated`` need confidences.
    """
    label, rank = outcomes.columns["label"], outcomes.columns["rank"]
    num_classes = len(outcomes.class_names)
    total = weights.sum(1)
    values = {f"top{k}": (weights * (rank < k)).sum(1) / total for k in _KS if k <= num_classes}
    zeros = torch.zeros(len(weights), num_classes, dtype=torch.float64)
    support = zeros.index_add(1, label, weights)
    taken = zeros.index_add(1, outcomes.columns["chosen"], weights)
    hits = zeros.index_add(1, label, weights * (rank == 0))
    occurs = support > 0

    def mean(of_class: Float[Tensor, "samples C"]) -> Float[Tensor, " samples"]:
        return of_class.where(occurs, 0).sum(1) / occurs.sum(1)

    values["mean_per_class_recall"] = values["balanced_accuracy"] = mean(hits / support)
    values["macro_precision"] = mean(hits / torch.where(taken > 0, taken, 1.0))
    values["macro_f1"] = mean(2 * hits / (support + taken))
    for name, column in (("ece", "confidence"), ("ece_calibrated", _CALIBRATED)):
        if column in outcomes.columns:
            values[name] = calibration_errors(outcomes.columns[column], rank == 0, weights)
    return values


def reliability_diagrams(outcomes: Outcomes) -> dict[str, Reliability]:
    """Return the reliability diagrams of a classification.

    Args:
        outcomes: Outcomes of kind "classification".

    Returns:
        The diagram before calibration as ``confidence``, and after it as ``calibrated_confidence``;
        empty if the outcomes have no confidences.

    Examples:
        >>> (outcomes,) = ZeroShotClassification("data/val").evaluate(encoder).outcomes
        >>> diagram = reliability_diagrams(outcomes)["confidence"]
        >>> int(diagram.weight.sum())
        9
    """
    return {
        name: reliability(outcomes.columns[name], outcomes.columns["rank"] == 0)
        for name in ("confidence", _CALIBRATED)
        if name in outcomes.columns
    }
