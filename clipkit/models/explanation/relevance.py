"""Relevance of tokens and of positions, from attention, feature maps and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from math import isqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.models.explanation.recording import Attention


def is_chain(attentions: Sequence[Attention]) -> bool:
    """Return whether each attention reads the tokens of the previous one, all at once.

    False for attention within windows, or over fewer keys than there are tokens.
    """
    weights = [attention.weights for attention in attentions]
    return bool(weights) and all(
        len(layer) == 1 and (number == 0 or layer.shape[-1] == weights[number - 1].shape[-2])
        for number, layer in enumerate(weights)
    )


def roll_out(
    attentions: Sequence[Float[Tensor, "heads queries keys"]],
    gradients: Sequence[Float[Tensor, "heads queries keys"]],
    reads_tokens: Sequence[bool],
) -> Float[Tensor, " keys"]:
    """Compute the relevance of each token by gradient-weighted attention rollout.

    In each layer, relevance is passed on by the mean over the heads of attention times gradient,
    without negative values, and by the residual connection (Chefer et al. 2021, arXiv:2103.15679,
    equations 5 and 6). It starts at the tokens that the embedding is computed from, which are those
    whose attention in the last layer has a gradient.

    Args:
        attentions: Probabilities of each layer, from input to output.
        gradients: Derivatives of the score with respect to ``attentions``.
        reads_tokens: Whether the queries of a layer are tokens, its first ones if there are fewer
            queries than keys; False for trained queries, which have no residual connection.

    Returns:
        Relevance of each token of the input, at least 0: what is passed on by attention, without
        that of a token for itself.

    Examples:
        >>> attention = torch.tensor([[[0.25, 0.75], [0.5, 0.5]]])
        >>> gradient = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]])  # the first token is pooled
        >>> roll_out([attention], [gradient], [True])
        tensor([0.2500, 1.5000])
    """
    is_read = (gradients[-1].abs().amax((0, 2)) > 0).to(gradients[-1].dtype)
    # what a token has from itself is kept apart: small values would be lost in the sum
    own = is_read / is_read.sum().clamp(min=1)
    moved = torch.zeros_like(own)
    for attention, gradient, has_residual in zip(
        reversed(attentions), reversed(gradients), reversed(reads_tokens), strict=True
    ):
        passed = (own + moved) @ (attention * gradient).clamp(min=0).mean(0)
        more_tokens = (0, len(passed) - len(own))
        own = F.pad(own, more_tokens) if has_residual else torch.zeros_like(passed)
        moved = F.pad(moved, more_tokens) + passed if has_residual else passed
    return moved


def grad_cam(
    feature_map: Float[Tensor, "channels rows columns"],
    gradient: Float[Tensor, "channels rows columns"],
) -> Float[Tensor, "rows columns"]:
    """Compute the relevance of each position by Grad-CAM.

    Channels are weighted by their mean gradient, and negative sums are set to 0 (Selvaraju et al.
    2017, arXiv:1610.02391, equations 1 and 2).

    Args:
        feature_map: Features of the last layer with positions.
        gradient: Derivative of the score with respect to ``feature_map``.

    Examples:
        >>> features = torch.tensor([[[1.0, 0.0]], [[0.0, 3.0]]])
        >>> gradient = torch.tensor([[[2.0, 0.0]], [[-1.0, -1.0]]])
        >>> grad_cam(features, gradient)
        tensor([[1., 0.]])
    """
    weights = gradient.mean((1, 2), keepdim=True)
    return (weights * feature_map).sum(0).clamp(min=0)


def as_grid(
    tokens: Float[Tensor, "*rest tokens"],
    grids: Int64[Tensor, "B 2"] | None = None,
    token_grid: tuple[int, int] | None = None,
) -> Float[Tensor, "*rest rows columns"]:
    """Return the patches as a grid: the last tokens, after those of the class and of registers.

    Args:
        tokens: A value of each token.
        grids: Rows and columns of the patches of an image of any shape.
        token_grid: Rows and columns of the tokens of other inputs; None for a square.

    Examples:
        >>> as_grid(torch.tensor([9.0, 1.0, 2.0, 3.0, 4.0]))
        tensor([[1., 2.],
                [3., 4.]])
    """
    number = tokens.shape[-1]
    rows, columns = token_grid or (isqrt(number),) * 2
    if grids is not None:
        rows, columns = grids[0].tolist()
    patches = tokens[..., number - rows * columns :]
    return patches.reshape(*patches.shape[:-1], rows, columns)


def scaled(relevance: Float[Tensor, " *shape"]) -> Float[Tensor, " *shape"]:
    """Scale relevance so that the largest value is 1; all values are 0 if none is positive."""
    relevance = relevance.detach().float().cpu().clamp(min=0)
    largest = relevance.max() if relevance.numel() else torch.tensor(0.0)
    return relevance / largest if largest > 0 else relevance
