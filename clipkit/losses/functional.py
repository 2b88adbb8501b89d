"""The contrastive losses as plain formulas over the whole matrix of similarities, one process.

These are the definitions: short, differentiable twice, with memory quadratic in the batch. The
classes :class:`~clipkit.losses.ContrastiveLoss` and :class:`~clipkit.losses.SigmoidLoss` give the
same numbers in linear memory and over ranks.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional as F


def similarity_logits(
    image: Float[Tensor, "B D"], text: Float[Tensor, "M D"], logit_scale: Float[Tensor, ""]
) -> Float[Tensor, "B M"]:
    """Cosine similarities times the scale.

    Args:
        image: Unit-norm embeddings of the pictures.
        text: Unit-norm embeddings of the captions.
        logit_scale: Inverse temperature, linear.

    Returns:
        One row a picture, one column a caption.
    """
    return logit_scale * image @ text.T


def softmax_contrastive_loss(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B D"],
    logit_scale: Float[Tensor, ""],
    groups: Int64[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """Symmetric cross-entropy between each picture and the captions, and the other way round.

    With ``groups``, all pairs of one group are right answers of equal weight (UniCL, Yang et al.
    2022, arXiv:2204.03610); without, pair ``i`` belongs to pair ``i`` alone (CLIP, Radford et al.
    2021, arXiv:2103.00020).

    Args:
        image: Unit-norm embeddings of the pictures.
        text: Unit-norm embeddings of the captions.
        logit_scale: Inverse temperature, linear.
        groups: Pairs with the same number match each other.

    Returns:
        Mean over pairs and over both directions.

    Examples:
        >>> one = torch.eye(2)
        >>> round(softmax_contrastive_loss(one, one, torch.tensor(1.0)).item(), 3)
        0.313
    """
    logits = similarity_logits(image, text, logit_scale)
    targets = _targets(len(image), groups, logits)
    targets = targets / targets.sum(1, keepdim=True)  # symmetric: rows and columns sum to 1
    return (F.cross_entropy(logits, targets) + F.cross_entropy(logits.T, targets)) / 2


def sigmoid_contrastive_loss(
    image: Float[Tensor, "B D"],
    text: Float[Tensor, "B D"],
    logit_scale: Float[Tensor, ""],
    logit_bias: Float[Tensor, ""],
    groups: Int64[Tensor, " B"] | None = None,
) -> Float[Tensor, ""]:
    """Binary cross-entropy of every picture with every caption.

    SigLIP, Zhai et al. 2023, arXiv:2303.15343.

    Args:
        image: Unit-norm embeddings of the pictures.
        text: Unit-norm embeddings of the captions.
        logit_scale: Inverse temperature, linear.
        logit_bias: Added to the scaled similarities.
        groups: Pairs with the same number match each other; default: each matches itself alone.

    Returns:
        Sum over all B*B combinations, divided by B.
    """
    logits = similarity_logits(image, text, logit_scale) + logit_bias
    signs = 2 * _targets(len(image), groups, logits) - 1
    return -F.logsigmoid(signs * logits).sum() / len(image)


def _targets(size: int, groups: Tensor | None, like: Tensor) -> Tensor:
    if groups is None:
        return torch.eye(size, dtype=like.dtype, device=like.device)
    return (groups[:, None] == groups[None, :]).to(like)
