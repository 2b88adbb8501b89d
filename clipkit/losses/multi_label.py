"""Several classes at once, some of them unknown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from clipkit.errors import ConfigError
from clipkit.losses.label import head_logits, mean_over_ranks
from clipkit.losses.term import LossTerm, Term
from clipkit.types import IGNORE_LABEL, Batch, Embeddings


@final
class MultiLabelLoss(LossTerm):
    """Binary cross-entropy of the label head, as a mean over all known (sample, class) entries.

    Reads ``batch.multi_labels``: 1, 0, or ``IGNORE_LABEL`` where nobody knows. Exact over ranks,
    and 0 with the head kept in the graph where nothing is known.

    Args:
        positive_weights: One factor a class for entries that are 1, against rare classes: commonly
            the number of 0 divided by the number of 1. The mean is over entries, not weights, as in
            torch.

    Raises:
        ConfigError: If there is no label head, or no multi_labels in the batch, or they do not fit.
    """

    reads_captions = False
    positive_weights: Float[Tensor, " C"] | None

    def __init__(self, positive_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if positive_weights is not None and any(weight < 0 for weight in positive_weights):
            raise ConfigError(
                f"positive_weights: expected none below 0, got {min(positive_weights)}"
            )
        weights = None if positive_weights is None else torch.tensor(list(positive_weights))
        self.register_buffer("positive_weights", weights)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder without a label head, or with one of another width."""
        num_classes, weights = head_logits(embeddings).shape[1], self.positive_weights
        if weights is not None and len(weights) != num_classes:
            raise ConfigError(
                f"positive_weights: expected {num_classes}, as many as the label_head's classes, "
                f"got {len(weights)}"
            )

    def check_batch(self, batch: Batch, num_classes: int | None) -> None:
        """Refuse targets of another width, or other than 0, 1 and unknown."""
        if num_classes is not None and batch.multi_labels is not None:
            _checked(batch.multi_labels, num_classes)

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """See :class:`MultiLabelLoss`; its samples are those of all ranks with a known entry."""
        self.check(embeddings)
        logits = head_logits(embeddings)
        if batch is None or batch.multi_labels is None:
            raise ConfigError(
                "multi-label loss: expected a batch with multi_labels, got none; read them by "
                "data.fields (clipkit.data.MultiLabels)"
            )
        targets = _checked(batch.multi_labels, logits.shape[1])
        known = targets != IGNORE_LABEL
        weights = self.positive_weights
        losses = F.binary_cross_entropy_with_logits(
            logits,
            targets.clamp(min=0).to(logits),
            weight=known.to(logits),
            pos_weight=None if weights is None else weights.to(logits),
            reduction="sum",
        )
        return mean_over_ranks(losses, known.sum(), known.any(1).sum())


def _checked(targets: Int64[Tensor, "B C"], num_classes: int) -> Int64[Tensor, "B C"]:
    if targets.shape[1] != num_classes:
        raise ConfigError(
            f"multi_labels: expected {[len(targets), num_classes]}, as the encoder's label_head "
            f"gives, got {list(targets.shape)}"
        )
    wrong = (targets != 0) & (targets != 1) & (targets != IGNORE_LABEL)
    if wrong.is_cuda:
        torch._assert_async(~wrong.any(), f"multi_labels: expected 0, 1 or {IGNORE_LABEL}")
    elif wrong.any():
        raise ConfigError(
            f"multi_labels: expected 0, 1 or {IGNORE_LABEL} for unknown, "
            f"got {int(targets[wrong][0])}"
        )
    return targets
