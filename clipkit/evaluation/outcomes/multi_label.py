"""Outcomes of classification with several classes per image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.errors import MetricError
from clipkit.evaluation.outcomes.outcomes import Outcomes, distinct_keys
from clipkit.types import IGNORE_LABEL

_UNKNOWN: Final = -1


def multi_label_outcomes(
    scores: Float[Tensor, "N C"],
    targets: Int64[Tensor, "N C"],
    keys: Sequence[str],
    class_names: Sequence[str],
    predicted: Bool[Tensor, "N C"] | None = None,
    groups: Sequence[str] | None = None,
) -> Outcomes:
    """Return the outcomes of a classifier that gives each class a score of its own.

    Args:
        scores: Score of each class for each image, on any scale.
        targets: 1 where a class applies, 0 where it does not, ``IGNORE_LABEL`` where it is unknown.
        keys: Name of each image.
        class_names: Names of the C classes.
        predicted: Whether a class is predicted; None if there are no thresholds.
        groups: Group of each image; None if images are independent of one another.

    Returns:
        Outcomes of kind "multi-label" with the columns ``rank`` (of the score among the images, per
        class), ``micro_rank`` (among all scores), ``target`` (-1 where it is unknown), and
        ``predicted``. Equal scores have equal ranks. An image without a known class is left out.

    Raises:
        MetricError: If the shapes differ, a score is NaN, a target has another value, or no class
            applies to an image.

    Examples:
        >>> scores, targets = torch.tensor([[0.9, 0.1], [0.2, 0.3]]), torch.tensor([[1, 0], [0, 1]])
        >>> outcomes = multi_label_outcomes(scores, targets, ["x", "y"], ["cat", "dog"])
        >>> outcome_metrics(outcomes)["mean_average_precision"]
        1.0
    """
    _check(scores, targets)
    rows = (targets != IGNORE_LABEL).any(1).nonzero().flatten()
    scores, targets = scores[rows], targets[rows]
    columns = {
        "rank": torch.stack([_dense_ranks(column) for column in scores.T], 1),
        "micro_rank": _dense_ranks(scores.flatten()).view_as(scores),
        "target": torch.where(targets == IGNORE_LABEL, _UNKNOWN, targets).to(torch.int8),
    }
    if predicted is not None:
        columns["predicted"] = predicted[rows]
    names = distinct_keys(keys)
    names, of_groups = (
        tuple(values[row] for row in rows.tolist()) for values in (names, groups or names)
    )
    return Outcomes("multi-label", names, of_groups, columns, class_names=tuple(class_names))


def multi_label_metrics(outcomes: Outcomes, weights: Float[Tensor, " N"]) -> dict[str, float]:
    """Return average precisions and AUROC, and, with predictions, precision, recall and F1.

    Means are taken over the classes that apply to an image; AUROC also needs an image without the
    class. A class for which a value is not defined has no key, or NaN if only the weights lack it.
    """
    target = outcomes.columns["target"]
    known = weights[:, None] * (target != _UNKNOWN)
    positive = known * (target == 1)
    by_class = dict(
        zip(
            ("average_precision", "auroc"),
            _ranking(outcomes.columns["rank"], known, positive),
            strict=True,
        )
    )
    flat = (columns.reshape(-1, 1) for columns in (outcomes.columns["micro_rank"], known, positive))
    values = {
        "mean_average_precision": _mean(by_class["average_precision"]),
        "micro_average_precision": float(_ranking(*flat)[0]),
        "macro_auroc": _mean(by_class["auroc"]),
    }
    if "predicted" in outcomes.columns:
        decisions, by_class["f1"] = _decisions(outcomes.columns["predicted"], known, positive)
        values |= decisions
        right = (outcomes.columns["predicted"] == (target == 1)) | (target == _UNKNOWN)
        values["exact_match"] = float((weights * right.all(1)).sum() / weights.sum())
    occurs = (target == 1).any(0)
    for metric, of_class in by_class.items():
        is_defined = occurs & (target == 0).any(0) if metric == "auroc" else occurs
        for number in is_defined.nonzero().flatten().tolist():
            values[f"{metric}/{outcomes.class_names[number]}"] = float(of_class[number])
    return values


def _ranking(
    rank: Int64[Tensor, "N C"], known: Float[Tensor, "N C"], positive: Float[Tensor, "N C"]
) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
    """Return average precision and AUROC of each class; NaN where there is no positive (negative).

    Samples are counted per distinct score, so that equal scores enter together.
    """
    num_classes, num_ranks = rank.shape[1], int(rank.max()) + 1
    places = (rank + num_ranks * torch.arange(num_classes)).flatten()

    def counted(values: Float[Tensor, "N C"]) -> Float[Tensor, "C ranks"]:
        counts = torch.bincount(places, values.flatten(), num_classes * num_ranks)
        return counts.view(num_classes, num_ranks)

    everyone, hits = counted(known), counted(positive)
    so_far, hits_so_far = everyone.cumsum(1), hits.cumsum(1)
    total, negatives = hits_so_far[:, -1], (everyone - hits).sum(1)
    precision = hits_so_far / torch.where(so_far > 0, so_far, 1.0)
    # Positives above a negative, and half of those with its score.
    above = ((everyone - hits) * (hits_so_far - hits / 2)).sum(1)
    return (hits * precision).sum(1) / total, above / (total * negatives)


def _decisions(
    predicted: Bool[Tensor, "N C"], known: Float[Tensor, "N C"], positive: Float[Tensor, "N C"]
) -> tuple[dict[str, float], Float[Tensor, " C"]]:
    """Return precision, recall and F1 over all classes, and F1 of each class."""
    hits, taken, support = (
        (positive * predicted).sum(0),
        (known * predicted).sum(0),
        positive.sum(0),
    )
    f1 = torch.where(support > 0, 2 * hits / (taken + support), torch.nan)
    values = {
        "micro_precision": float(hits.sum() / taken.sum()) if taken.any() else 0.0,
        "micro_recall": float(hits.sum() / support.sum()),
        "micro_f1": float(2 * hits.sum() / (taken + support).sum()),
        "macro_f1": _mean(f1),
    }
    return values, f1


def _mean(values: Float[Tensor, " C"]) -> float:
    return float(values[~values.isnan()].mean())


def _dense_ranks(scores: Float[Tensor, " N"]) -> Int64[Tensor, " N"]:
    """Return 0 for the greatest score, 1 for the next one that differs, and so on."""
    ranks: Tensor = torch.unique(-scores, return_inverse=True)[1]
    return ranks.int()


def _check(scores: Tensor, targets: Tensor) -> None:
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
    if not (targets == 1).any():
        raise MetricError("targets: expected a class that applies to an image, got none")
