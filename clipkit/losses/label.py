"""Classification as a part of the objective: labels where there are some, exact over all ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from clipkit.distributed.collectives import sum_over_ranks, world_size
from clipkit.errors import ConfigError
from clipkit.losses.term import LossTerm, Term
from clipkit.types import IGNORE_LABEL, Batch, Embeddings


@final
class LabelLoss(LossTerm):
    """Cross-entropy of the label head, as a mean over the labelled samples of all ranks.

    A rank without labels takes part with a zero that keeps the head in the graph, as DDP needs; a
    step without any label gives 0. With ``class_weights`` it is torch's weighted mean (divided by
    the sum of the weights of the labels).

    Args:
        num_classes: Width of the head; checked where given.
        label_smoothing: Share of the target that is spread over all classes, 0 to 1.
        class_weights: One factor a class.
        class_counts: Instead of ``class_weights``: training samples of each class, which
            :func:`balanced_class_weights` makes weights of.
        balance: The ``beta`` of that function, 0 to under 1.

    Raises:
        ConfigError: If the options contradict each other, the encoder has no label head, or a label
            lies outside the head's classes.

    Examples:
        >>> one = torch.eye(2)
        >>> embeddings = Embeddings(one, one, torch.tensor(1.0), label_logits=torch.zeros(2, 4))
        >>> batch = Batch(torch.zeros(2, 3, 1, 1, dtype=torch.uint8), torch.zeros(2, 1).long(),
        ...               torch.tensor([3, IGNORE_LABEL]), ("a", "b"))
        >>> round(LabelLoss()(embeddings, batch).item(), 3)
        1.386
    """

    reads_captions = False
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
        if not 0 <= label_smoothing <= 1:
            raise ConfigError(f"label_smoothing: expected 0 to 1, got {label_smoothing}")
        if class_weights is not None and any(weight < 0 for weight in class_weights):
            raise ConfigError(f"class_weights: expected none below 0, got {min(class_weights)}")
        if class_weights is not None and num_classes not in (None, len(class_weights)):
            raise ConfigError(
                f"class_weights: expected {num_classes} (num_classes), got {len(class_weights)}"
            )
        self.num_classes = num_classes if class_weights is None else len(class_weights)
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.tensor(list(class_weights))
        self.register_buffer("class_weights", weights)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder without a label head, or with one of another width."""
        num_classes = head_logits(embeddings).shape[1]
        if self.num_classes not in (None, num_classes):
            raise ConfigError(
                f"num_classes: the label loss expects {self.num_classes}, "
                f"the encoder's label_head gives {num_classes}"
            )

    def check_batch(self, batch: Batch, num_classes: int | None) -> None:
        """Refuse labels that the head has no class for."""
        if num_classes is not None:
            check_labels(batch.labels, num_classes)

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """See :class:`LabelLoss`; its samples are the labelled ones of all ranks."""
        self.check(embeddings)
        logits = head_logits(embeddings)
        if batch is None:
            raise ConfigError("label loss: expected a batch with labels, got None")
        labels = batch.labels
        check_labels(labels, logits.shape[1])
        weights = None if self.class_weights is None else self.class_weights.to(logits)
        total = F.cross_entropy(
            logits,
            labels,
            weight=weights,
            ignore_index=IGNORE_LABEL,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        labelled = labels != IGNORE_LABEL
        share = labelled.to(logits)
        if weights is not None:
            share = share * weights[labels.clamp(min=0)]
        return mean_over_ranks(total, share.sum(), labelled.sum())


def head_logits(embeddings: Embeddings) -> Float[Tensor, "B C"]:
    """Scores of the label head, in fp32 or better.

    Raises:
        ConfigError: If the encoder has none.
    """
    logits = embeddings.label_logits
    if logits is None:
        raise ConfigError("label loss: the encoder has no label_head; give it one")
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def mean_over_ranks(
    total: Float[Tensor, ""], divisor: Float[Tensor, ""], num_samples: Tensor
) -> Term:
    """Turn this rank's sum into the mean over all ranks, with the gradient that DDP expects.

    Args:
        total: Sum over this rank's samples, differentiable.
        divisor: This rank's part of what the sum of all ranks is divided by.
        num_samples: Samples of this rank.

    Returns:
        The global mean; 0 where the divisor of all ranks is 0.
    """
    sums = sum_over_ranks(torch.stack([total.detach(), divisor.to(total), num_samples.to(total)]))
    denominator = torch.where(sums[1] > 0, sums[1], 1.0)
    own = total * (world_size() / denominator)
    return Term(own + (sums[0] / denominator - own).detach(), sums[2])


def check_labels(labels: Int64[Tensor, " B"], num_classes: int) -> None:
    """Refuse labels that no class stands for.

    On a GPU the check waits for nothing: labels that were not checked on the CPU before
    (:meth:`~clipkit.losses.CombinedLoss.check_batch`) then stop the program by an assertion.

    Args:
        labels: Class indices, ``IGNORE_LABEL`` where a sample has none.
        num_classes: Number of classes.

    Raises:
        ConfigError: Naming the first label outside 0 to ``num_classes`` - 1.
    """
    wrong = (labels != IGNORE_LABEL) & ((labels < 0) | (labels >= num_classes))
    if wrong.is_cuda:
        torch._assert_async(~wrong.any(), f"labels: expected 0 to {num_classes - 1}")
    elif wrong.any():
        raise ConfigError(
            f"labels: expected 0 to {num_classes - 1} or {IGNORE_LABEL} for none, "
            f"got {int(labels[wrong][0])}; make the label_head wider or mend the labels"
        )


def balanced_class_weights(counts: Sequence[int], beta: float = 0.999) -> list[float]:
    """Weights by the effective number of samples (Cui et al. 2019, arXiv:1901.05555).

    Args:
        counts: Training samples of each class.
        beta: 0 weighs all classes alike; towards 1 it comes to 1 / count.

    Returns:
        One weight a class, with mean 1 over the classes that have samples; 0 for those without.

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
