"""The losses as pure functions of tensors, exact over all ranks.

A class of ``losses`` checks its options, selects what a function needs from embeddings
and batch, and calls it. Batches may be uneven over the ranks; a rank may be empty. Values can be
differentiated once.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F

from clipkit.losses.kernels.labels import check_labels, check_multi_labels
from clipkit.losses.kernels.pairs import Pairs, accumulation_dtype
from clipkit.losses.kernels.products import Precision
from clipkit.losses.pair_terms import (
    Update,
    global_term,
    sigmoid_term,
    similarity_term,
    softmax_term,
)
from clipkit.losses.term import Term, mean_over_ranks
from clipkit.types import IGNORE_LABEL


def contrastive_loss(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B D"],
    logit_scale: Float[Tensor, ""],
    groups: Int64[Tensor, " B"] | None = None,
    negative_image: Float[Tensor, "negative_images D"] | None = None,
    negative_text: Float[Tensor, "negative_texts D"] | None = None,
    tile_size: int | None = None,
    precision: Precision = "auto",
    rank_sizes: Sequence[int] | None = None,
) -> Term:
    """Compute the symmetric cross-entropy between each image and the texts of all ranks.

    CLIP (Radford et al. 2021, arXiv:2103.00020); with ``groups`` UniCL (Yang et al. 2022,
    arXiv:2204.03610); with negatives NegCLIP (Yuksekgonul et al. 2023, arXiv:2210.01936).

    Args:
        image: Unit-norm embeddings of the images.
        text: Unit-norm embeddings of the texts; row i belongs to image i.
        logit_scale: Inverse temperature, linear.
        groups: Group ids over all ranks. Pairs with the same non-negative id are positives of equal
            weight for each other; a negative id means no other positives.
        negative_image: Unit-norm embeddings of additional negatives for the texts.
        negative_text: Unit-norm embeddings of additional negatives for the images.
        tile_size: Rows and columns of similarities held at a time; None to choose them.
        precision: Precision of the operands of the products; sums are in fp32.
        rank_sizes: Number of pairs of each rank, where no rank has negatives; None to exchange it,
            for which a step waits.

    Returns:
        Mean over pairs of all ranks and both directions.

    Examples:
        >>> contrastive_loss(torch.eye(2), torch.eye(2), torch.tensor(1.0)).value
        tensor(0.3133)
    """
    negatives = negative_image, negative_text
    pairs = Pairs(image, text, logit_scale, groups, *negatives, rank_sizes)
    return softmax_term(pairs, tile_size, precision)


def sigmoid_loss(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B D"],
    logit_scale: Float[Tensor, ""],
    logit_bias: Float[Tensor, ""],
    groups: Int64[Tensor, " B"] | None = None,
    negative_image: Float[Tensor, "negative_images D"] | None = None,
    negative_text: Float[Tensor, "negative_texts D"] | None = None,
    tile_size: int | None = None,
    precision: Precision = "auto",
    rank_sizes: Sequence[int] | None = None,
) -> Term:
    """Compute the binary cross-entropy of every image with every text of all ranks.

    SigLIP (Zhai et al. 2023, arXiv:2303.15343).

    Args:
        image: Unit-norm embeddings of the images.
        text: Unit-norm embeddings of the texts; row i belongs to image i.
        logit_scale: Inverse temperature, linear.
        logit_bias: Added to the scaled similarities.
        groups: Group ids over all ranks, as for ``contrastive_loss``.
        negative_image: Unit-norm embeddings of additional negatives for the texts.
        negative_text: Unit-norm embeddings of additional negatives for the images.
        tile_size: Rows and columns of similarities held at a time; None to choose them.
        precision: Precision of the operands of the products; sums are in fp32.
        rank_sizes: Number of pairs of each rank, where no rank has negatives; None to exchange it,
            for which a step waits.

    Returns:
        Sum over all combinations, divided by the number of pairs of all ranks.
    """
    negatives = negative_image, negative_text
    pairs = Pairs(image, text, logit_scale, groups, *negatives, rank_sizes)
    return sigmoid_term(pairs, logit_bias, tile_size, precision)


def global_contrastive_loss(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B D"],
    logit_scale: Float[Tensor, ""],
    update: Update | None = None,
    epsilon: float = 1e-14,
    tile_size: int | None = None,
    rank_sizes: Sequence[int] | None = None,
) -> Term:
    """Compute a contrastive loss whose denominators are averages over the data set.

    SogCLR (Yuan et al. 2022, arXiv:2202.12387); see ``losses.GlobalContrastiveLoss``.

    Args:
        image: Unit-norm embeddings of the images.
        text: Unit-norm embeddings of the texts; row i belongs to image i.
        logit_scale: Inverse temperature, linear.
        update: Maps log g, the denominators in this batch (row 0 for the images of all ranks, row 1
            for their texts), and the number of pairs of each rank to log u, the denominators that
            the gradient uses; None to use those of this batch.
        epsilon: Added to u.
        tile_size: Rows and columns of similarities held at a time; None to choose them.
        rank_sizes: Number of pairs of each rank; None to exchange it, for which a step waits.

    Returns:
        Mean of log u over pairs of all ranks and both directions; 0 for fewer than two pairs.
    """
    pairs = Pairs(image, text, logit_scale, rank_sizes=rank_sizes)
    return global_term(pairs, update, epsilon, tile_size)


def similarity_distillation_loss(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B D"],
    logit_scale: Float[Tensor, ""],
    teacher_image: Float[Tensor, "B teacher_dim"],
    teacher_text: Float[Tensor, "B teacher_dim"],
    teacher_logit_scale: Float[Tensor, ""],
    tile_size: int | None = None,
    rank_sizes: Sequence[int] | None = None,
) -> Term:
    """Compute KL(teacher || student) over texts for each image, and over images for each text.

    Args:
        image: Unit-norm embeddings of the images by the student.
        text: Unit-norm embeddings of the texts by the student; row i belongs to image i.
        logit_scale: Inverse temperature of the student, linear.
        teacher_image: Unit-norm embeddings of the same images by the teacher; no gradient.
        teacher_text: Unit-norm embeddings of the same texts by the teacher; no gradient.
        teacher_logit_scale: Inverse temperature of the teacher, linear.
        tile_size: Rows and columns of similarities held at a time; None to choose them.
        rank_sizes: Number of pairs of each rank; None to exchange it, for which a step waits.

    Returns:
        Mean over pairs of all ranks and both directions.
    """
    student = Pairs(image, text, logit_scale, rank_sizes=rank_sizes)
    teacher = Pairs(teacher_image, teacher_text, teacher_logit_scale)
    return similarity_term(student, teacher, tile_size)


def feature_distillation_loss(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B D"],
    teacher_image: Float[Tensor, "B D"],
    teacher_text: Float[Tensor, "B D"],
) -> Term:
    """Compute 1 - cosine between student and teacher, averaged over both towers.

    Args:
        image: Unit-norm embeddings of the images by the student.
        text: Unit-norm embeddings of the texts by the student; row i belongs to image i.
        teacher_image: Unit-norm embeddings of the same images by the teacher; no gradient.
        teacher_text: Unit-norm embeddings of the same texts by the teacher; no gradient.

    Returns:
        Mean over pairs of all ranks and both towers.
    """
    dtype = accumulation_dtype(image)
    cosines = (image.to(dtype) * teacher_image.to(dtype)).sum(1)
    cosines = cosines + (text.to(dtype) * teacher_text.to(dtype)).sum(1)
    size = torch.full((), float(len(cosines)), device=cosines.device)
    return mean_over_ranks((1 - cosines / 2).sum(), size, size)


def label_loss(
    logits: Float[Tensor, "B C"],
    labels: Int64[Tensor, " B"],
    class_weights: Float[Tensor, " C"] | None = None,
    label_smoothing: float = 0.0,
) -> Term:
    """Compute the cross-entropy over the labelled samples.

    Args:
        logits: Scores of the classes; sums are in fp32 or better.
        labels: Class indices, ``IGNORE_LABEL`` where a sample has none.
        class_weights: Factor of each class; None for 1.
        label_smoothing: Share of the target that is spread evenly over all classes, 0 to 1.

    Returns:
        Mean over the labelled samples of all ranks (divided by the sum of their class weights, as
        in torch); 0 if no sample has a label.

    Raises:
        ConfigError: If a label has no class.
    """
    check_labels(labels, logits.shape[1])
    logits = logits.to(accumulation_dtype(logits))
    weights = None if class_weights is None else class_weights.to(logits)
    total = F.cross_entropy(
        logits, labels, weights, ignore_index=IGNORE_LABEL, reduction="sum",
        label_smoothing=label_smoothing,
    )  # fmt: skip
    labelled = labels != IGNORE_LABEL
    divisor = labelled.to(logits)
    if weights is not None:
        divisor = divisor * weights[labels.clamp(min=0)]
    return mean_over_ranks(total, divisor.sum(), labelled.sum())


def multi_label_loss(
    logits: Float[Tensor, "B C"],
    targets: Int64[Tensor, "B C"],
    positive_weights: Float[Tensor, " C"] | None = None,
) -> Term:
    """Compute the binary cross-entropy over the known (sample, class) entries.

    Args:
        logits: Scores of the classes; sums are in fp32 or better.
        targets: 1 where a class applies, 0 where it does not, ``IGNORE_LABEL`` where it is unknown.
        positive_weights: Factor of each class for entries that are 1; None for 1.

    Returns:
        Mean over the known entries of all ranks; 0 if no entry is known. ``num_samples`` counts the
        samples with a known entry.

    Raises:
        ConfigError: If the shapes differ or a target has another value.
    """
    check_multi_labels(targets, logits.shape[1])
    logits = logits.to(accumulation_dtype(logits))
    known = targets != IGNORE_LABEL
    total = F.binary_cross_entropy_with_logits(
        logits,
        targets.clamp(min=0).to(logits),
        weight=known.to(logits),
        pos_weight=None if positive_weights is None else positive_weights.to(logits),
        reduction="sum",
    )
    return mean_over_ranks(total, known.sum(), known.any(1).sum())
