"""The label of a fused pair: answers to questions, entailment, classes of images with texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.errors import ConfigError, check_range
from clipkit.losses.functional import label_loss
from clipkit.losses.joint.fused_rows import (
    checked_micro_batch,
    complete_samples,
    in_micro_batches,
    joint_of,
    tokens_of,
)
from clipkit.losses.kernels.labels import check_labels, weight_tensor
from clipkit.losses.term import FusedPasses, LossTerm, Term
from clipkit.types import IGNORE_LABEL, Batch, Embeddings


@final
class FusedLabelLoss(LossTerm):
    """Cross-entropy of the label head on the fusion, over the labelled samples of all ranks.

    The value is that of ``losses.label_loss`` of the logits that the head gives for the pooled
    vector of image and text, or of whatever is fused. Samples without a label, and those that lack
    a modality that is fused, are left out.

    Args:
        label_smoothing: Share of the target that is spread evenly over all classes, 0 to 1.
        class_weights: Factor of each class, for classes of very different size; see
            ``balanced_class_weights``. Null for 1.
        micro_batch_size: Samples whose fused activations are in memory at a time, computed again
            in the backward pass; null for all at once.

    Raises:
        ConfigError: If an option is out of range, or the encoder has no label head on a fusion.
    """

    reads_captions = False
    modalities = ()
    reads_fused = True
    passes = FusedPasses(fusions=1)
    label_head = "fused"
    class_weights: Float[Tensor, " C"] | None

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        micro_batch_size: int | None = None,
    ) -> None:
        super().__init__()
        check_range("label_smoothing", label_smoothing, 0, 1)
        self.register_buffer("class_weights", weight_tensor("class_weights", class_weights))
        self.label_smoothing = label_smoothing
        self.micro_batch_size = checked_micro_batch(micro_batch_size)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder without a label head on its fusion, and weights of other classes."""
        joint = joint_of(embeddings, "FusedLabelLoss")
        if joint.num_fused_classes == 0:
            raise ConfigError(
                "FusedLabelLoss: expected an encoder with a label head on its fusion, got none; "
                "add one with clipkit.models.with_fused_head"
            )
        weights = self.class_weights
        if weights is not None and len(weights) != joint.num_fused_classes:
            raise ConfigError(
                f"FusedLabelLoss.class_weights: expected {joint.num_fused_classes}, one for each "
                f"class of the head, got {len(weights)}"
            )

    def check_batch(self, batch: Batch, num_classes: int | None) -> None:
        """Refuse labels for which the head has no class."""
        if num_classes is not None:
            check_labels(batch.labels, num_classes)

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the labelled samples of all ranks."""
        self.check(embeddings)
        if batch is None:
            raise ConfigError("FusedLabelLoss: expected a batch with labels, got None")
        joint = joint_of(embeddings, "FusedLabelLoss")
        tokens = tokens_of(embeddings, joint, "FusedLabelLoss")
        valid = complete_samples(embeddings, batch, joint)

        def logits(rows: slice) -> Float[Tensor, "rows C"]:
            parts = {name: tokens[name].rows(rows) for name in joint.fused_names}
            return joint.classify_fused(joint.fuse(parts).pooled)

        scores = torch.cat(list(in_micro_batches(logits, valid, self.micro_batch_size)))
        labels = batch.labels.masked_fill(~valid, IGNORE_LABEL)
        return label_loss(scores, labels, self.class_weights, self.label_smoothing)
