"""Accuracy over a complete validation set, gathered from all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import MetricError
from clipkit.metrics.functional import first_of_each, label_ranks, recall_by_class
from clipkit.metrics.states import GatheredMetric
from clipkit.types import IGNORE_LABEL


@final
class ClassificationMetrics(GatheredMetric):
    """Top-k accuracy and mean recall per class, exact over ranks.

    Samples without a label are skipped; a sample that a sampler has repeated counts once.

    Args:
        num_classes: Number of classes, the columns of the scores.
        ks: Numbers of best classes that are considered; those above ``num_classes`` are skipped.

    Examples:
        >>> metric = ClassificationMetrics(num_classes=3, ks=(1,))
        >>> metric.update(torch.eye(3), torch.tensor([0, 1, 1]), torch.arange(3))
        >>> {name: round(value.item(), 3) for name, value in metric.compute().items()}
        {'top1': 0.667, 'mean_per_class_recall': 0.75}
    """

    ranks: list[Tensor]
    labels: list[Tensor]
    ids: list[Tensor]

    def __init__(self, num_classes: int, ks: Sequence[int] = (1, 5)) -> None:
        super().__init__(ks, ("ranks", "labels", "ids"))
        self.num_classes = num_classes
        self.ks = tuple(k for k in ks if k <= num_classes)

    def update(
        self, scores: Float[Tensor, "B C"], labels: Int64[Tensor, " B"], ids: Int64[Tensor, " B"]
    ) -> None:
        """Add samples.

        Args:
            scores: Score of each class, on any scale.
            labels: Class indices, ``IGNORE_LABEL`` where a sample has none.
            ids: Ids that are unique over all ranks: ``batch.sample_ids``.

        Raises:
            MetricError: If a score is NaN, a label has no column, or the widths do not fit.
        """
        if scores.shape[1] != self.num_classes:
            raise MetricError(f"scores: expected {self.num_classes} columns, got {scores.shape[1]}")
        known = labels != IGNORE_LABEL
        self.ranks.append(label_ranks(scores[known], labels[known]))
        self.labels.append(labels[known])
        self.ids.append(ids[known])

    def compute(self) -> dict[str, Tensor]:
        """Compute ``topK`` for each K, and ``mean_per_class_recall``, over all ranks."""
        ranks, labels, ids = map(self.gathered, ("ranks", "labels", "ids"))
        once = first_of_each(ids)
        ranks, labels = ranks[once], labels[once]
        mean = torch.tensor(recall_by_class(ranks, labels), device=ranks.device)
        scores = {f"top{k}": (ranks < k).double().mean().float() for k in self.ks}
        return {**scores, "mean_per_class_recall": mean}
