"""Losses over the labels of the samples of all ranks that have some."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from jaxtyping import Float
from torch import Tensor

from clipkit.errors import ConfigError, check_range
from clipkit.losses.functional import label_loss, multi_label_loss
from clipkit.losses.kernels.labels import check_labels, check_multi_labels, weight_tensor
from clipkit.losses.term import LossTerm, Term
from clipkit.types import Batch, Embeddings


@final
class LabelLoss(LossTerm):
    """Cross-entropy of the label head, as a mean over the labelled samples of all ranks.

    The value is that of ``losses.label_loss``. A rank without labels contributes a
    zero that keeps the head in the graph, as DDP requires.

    Args:
        num_classes: Number of classes of the label head, to be checked; null to take the head's.
        label_smoothing: Share of the target that is spread evenly over all classes, 0 to 1.
        class_weights: Factor of each class; null for 1.
        class_counts: Number of training samples of each class; class weights are computed from them
            by ``balanced_class_weights``. An alternative to ``class_weights``.
        balance: ``beta`` of ``balanced_class_weights``, 0 or more and below 1.

    Raises:
        ConfigError: If the options contradict each other, the encoder has no label head, or a label
            has no class.

    Examples:
        >>> same = torch.eye(2)
        >>> embeddings = Embeddings(same, same, torch.tensor(1.0), label_logits=torch.zeros(2, 4))
        >>> batch = Batch(torch.zeros(2, 3, 1, 1, dtype=torch.uint8), torch.zeros(2, 1).long(),
        ...               torch.tensor([3, -100]), ("a", "b"))
        >>> round(LabelLoss()(embeddings, batch).item(), 3)
        1.386
    """

    reads_captions = False
    modalities = ("image",)
    label_head = "image"
    class_weights: Float[Tensor, " C"] | None

    def __init__(
        self,
        num_classes: int | None = None,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
        class_counts: Sequence[int] | None = None,
        balance: float = 0.999,
    ) -> None:
        super().__init__()
        if class_counts is not None:
            if class_weights is not None:
                raise ConfigError("label loss: expected class_weights or class_counts, got both")
            class_weights = balanced_class_weights(class_counts, balance)
        check_range("label_smoothing", label_smoothing, 0, 1)
        self.register_buffer("class_weights", weight_tensor("class_weights", class_weights))
        if class_weights is not None and num_classes not in (None, len(class_weights)):
            raise ConfigError(
                f"class_weights: expected {num_classes} (num_classes), got {len(class_weights)}"
            )
        self.num_classes = num_classes if class_weights is None else len(class_weights)
        self.label_smoothing = label_smoothing

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder without a label head, or with a head of another width."""
        num_classes = head_logits(embeddings).shape[1]
        if self.num_classes not in (None, num_classes):
            raise ConfigError(
                f"num_classes: the label loss expects {self.num_classes}, "
                f"the encoder's label_head has {num_classes}"
            )

    def check_batch(self, batch: Batch, num_classes: int | None) -> None:
        """Refuse labels for which the head has no class."""
        if num_classes is not None:
            check_labels(batch.labels, num_classes)

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the labelled samples of all ranks."""
        self.check(embeddings)
        if batch is None:
            raise ConfigError("label loss: expected a batch with labels, got None")
        logits = head_logits(embeddings)
        return label_loss(logits, batch.labels, self.class_weights, self.label_smoothing)


@final
class MultiLabelLoss(LossTerm):
    """Binary cross-entropy of the label head, as a mean over the known entries of all ranks.

    The value is that of ``losses.multi_label_loss`` of ``batch.multi_labels``: 1, 0 or
    ``IGNORE_LABEL`` (-100, unknown) for each sample and class.

    Args:
        positive_weights: Factor of each class for entries that are 1; for rare classes commonly the
            number of zeros divided by the number of ones. Null for 1.

    Raises:
        ConfigError: If a weight is negative, the encoder has no label head, or the batch has no
            multi_labels of its width.
    """

    reads_captions = False
    modalities = ("image",)
    label_head = "image"
    positive_weights: Float[Tensor, " C"] | None

    def __init__(self, positive_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.register_buffer(
            "positive_weights", weight_tensor("positive_weights", positive_weights)
        )

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder without a label head, or with a head of another width."""
        num_classes, weights = head_logits(embeddings).shape[1], self.positive_weights
        if weights is not None and len(weights) != num_classes:
            raise ConfigError(
                f"positive_weights: expected {num_classes} (classes of the label_head), "
                f"got {len(weights)}"
            )

    def check_batch(self, batch: Batch, num_classes: int | None) -> None:
        """Refuse targets of another width, or with other values than 0, 1 and unknown."""
        if num_classes is not None and batch.multi_labels is not None:
            check_multi_labels(batch.multi_labels, num_classes)

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """Compute the loss over the known entries of all ranks."""
        self.check(embeddings)
        if batch is None or batch.multi_labels is None:
            raise ConfigError(
                "multi-label loss: expected a batch with multi_labels, got none; add "
                "clipkit.data.MultiLabels to data.samples.fields"
            )
        return multi_label_loss(head_logits(embeddings), batch.multi_labels, self.positive_weights)


def head_logits(embeddings: Embeddings) -> Float[Tensor, "B C"]:
    """Return the scores of the label head."""
    if embeddings.label_logits is None:
        raise ConfigError("label loss: the encoder has no label_head; add one")
    return embeddings.label_logits


def balanced_class_weights(counts: Sequence[int], beta: float = 0.999) -> list[float]:
    """Compute class weights by the effective number of samples (Cui et al. 2019, arXiv:1901.05555).

    Args:
        counts: Number of training samples of each class.
        beta: 0 weights all classes equally; towards 1 the weights approach 1 / count.

    Returns:
        Weight of each class, with mean 1 over the classes that have samples; 0 for the others.

    Raises:
        ConfigError: If ``beta`` is not in [0, 1), or no class has samples.

    Examples:
        >>> [round(weight, 2) for weight in balanced_class_weights([1000, 10])]
        [0.03, 1.97]
    """
    if not 0 <= beta < 1:
        raise ConfigError(f"beta: expected 0 <= beta < 1, got {beta}")
    raw = [(1 - beta) / (1 - beta**number) if number > 0 else 0.0 for number in counts]
    present = sum(weight > 0 for weight in raw)
    if not present:
        raise ConfigError("counts: expected at least one class with samples")
    mean = sum(raw) / present
    return [weight / mean for weight in raw]
