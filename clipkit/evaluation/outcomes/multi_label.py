"""Outcomes of classification with several classes per image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.errors import MetricError
from clipkit.evaluation.outcomes.outcomes import Outcomes, distinct_keys
from clipkit.metrics.per_class import check_targets
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
    ranking = _ranking(outcomes.columns["rank"], target)
    precisions, areas = ranking.precision_and_area(weights)
    together = _ranking(outcomes.columns["micro_rank"], target, together=True)
    of_all, _ = together.precision_and_area(weights)
    values = {
        "mean_average_precision": _mean(precisions),
        "micro_average_precision": float(of_all),
        "macro_auroc": _mean(areas),
    }
    by_class = {"average_precision": precisions, "auroc": areas}
    if "predicted" in outcomes.columns:
        decisions, by_class["f1"] = _decisions(outcomes.columns["predicted"], target, weights)
        values |= decisions
    occurs = (target == 1).any(0)
    for metric, of_class in by_class.items():
        is_defined = occurs & (target == 0).any(0) if metric == "auroc" else occurs
        for number in is_defined.nonzero().flatten().tolist():
            values[f"{metric}/{outcomes.class_names[number]}"] = float(of_class[number])
    return values


@dataclass(frozen=True, slots=True)
class _Ranking:
    """The samples of each class in the order of their scores.

    A pair is a class and an image that it applies to; pairs are in the order of classes and scores.

    Args:
        images: Image of each sample of each class, the greatest score first.
        is_known: Whether the class is known for those samples.
        pair_images: Image of each pair.
        pair_classes: Class of each pair.
        above: Number of samples of the pair's class with a greater score.
        up_to: Number of samples of the pair's class with a score that is at least as great.
        pairs_above: Number of pairs of all classes before the pair's score.
        pairs_up_to: Number of pairs of all classes up to the pair's score.
    """

    images: Int64[Tensor, "C N"]
    is_known: Bool[Tensor, "C N"]
    pair_images: Int64[Tensor, " pairs"]
    pair_classes: Int64[Tensor, " pairs"]
    above: Int64[Tensor, " pairs"]
    up_to: Int64[Tensor, " pairs"]
    pairs_above: Int64[Tensor, " pairs"]
    pairs_up_to: Int64[Tensor, " pairs"]

    def precision_and_area(
        self, weights: Float[Tensor, " N"]
    ) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Return average precision and AUROC of each class; NaN without positives (negatives)."""
        known = (weights[self.images] * self.is_known).cumsum(1)
        of_pairs = weights[self.pair_images]
        hits = F.pad(of_pairs.cumsum(0), (1, 0))
        zeros = torch.zeros(len(known), dtype=torch.float64)
        support = zeros.index_add(0, self.pair_classes, of_pairs)
        before = (support.cumsum(0) - support)[self.pair_classes]  # pairs of the classes before
        hits_above, hits_up_to = hits[self.pairs_above] - before, hits[self.pairs_up_to] - before
        known_up_to = known[self.pair_classes, self.up_to - 1]
        known_above = known[self.pair_classes, (self.above - 1).clamp(min=0)] * (self.above > 0)
        precision = hits_up_to / torch.where(known_up_to > 0, known_up_to, 1.0)
        # Negatives below the pair's score, and half of those with the same score.
        negatives = known[:, -1] - support
        of_above, of_up_to = known_above - hits_above, known_up_to - hits_up_to
        below = negatives[self.pair_classes] - (of_above + of_up_to) / 2
        average_precision, area = (
            zeros.index_add(0, self.pair_classes, of_pairs * values) / support
            for values in (precision, below)
        )
        return average_precision, area / negatives


@lru_cache(maxsize=4)  # a bootstrap asks for the same one; the hash of a tensor is its identity
def _ranking(
    rank: Int64[Tensor, "N C"], target: Int64[Tensor, "N C"], together: bool = False
) -> _Ranking:
    """Sort the samples of each class, or all pairs of image and class together as one class."""
    num_classes = rank.shape[1]
    rank, target = (t.reshape(1, -1) if together else t.T.contiguous() for t in (rank, target))
    ordered, order = rank.sort(1)
    target = target.gather(1, order)
    images = order.div(num_classes, rounding_mode="floor") if together else order
    classes, places = (target == 1).nonzero(as_tuple=True)
    above, up_to = (torch.searchsorted(ordered, ordered, right=right) for right in (False, True))
    above, up_to = above[classes, places], up_to[classes, places]
    # Positions among the pairs follow from those among all samples, because both have one order.
    flat = F.pad((target == 1).flatten().cumsum(0), (1, 0))
    start = classes * target.shape[1]
    return _Ranking(
        images, target != _UNKNOWN, images[classes, places], classes, above, up_to,
        flat[start + above], flat[start + up_to],
    )  # fmt: skip


def _decisions(
    predicted: Bool[Tensor, "N C"], target: Int64[Tensor, "N C"], weights: Float[Tensor, " N"]
) -> tuple[dict[str, float], Float[Tensor, " C"]]:
    """Return precision, recall and F1 over all classes, and F1 of each class."""
    is_positive, is_known = target == 1, target != _UNKNOWN
    taken = weights @ (is_known & predicted).double()
    support, hits = (weights @ mask.double() for mask in (is_positive, is_positive & predicted))
    f1 = torch.where(support > 0, 2 * hits / (taken + support), torch.nan)
    right = ((predicted == is_positive) | ~is_known).all(1)
    values = {
        "micro_precision": float(hits.sum() / taken.sum()) if taken.any() else 0.0,
        "micro_recall": float(hits.sum() / support.sum()),
        "micro_f1": float(2 * hits.sum() / (taken + support).sum()),
        "macro_f1": _mean(f1),
        "exact_match": float(weights @ right.double() / weights.sum()),
    }
    return values, f1


def _mean(values: Float[Tensor, " C"]) -> float:
    return float(values[~values.isnan()].mean())


def _dense_ranks(scores: Float[Tensor, " N"]) -> Int64[Tensor, " N"]:
    """Return 0 for the greatest score, 1 for the next one that differs, and so on."""
    ranks: Tensor = torch.unique(-scores, return_inverse=True)[1]
    return ranks.int()


def _check(scores: Tensor, targets: Tensor) -> None:
    check_targets(scores, targets)
    if not (targets == 1).any():
        raise MetricError("targets: expected a class that applies to an image, got none")
