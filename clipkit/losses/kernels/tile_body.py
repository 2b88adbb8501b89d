"""Operations on the logits of one tile between the products.

Each function has a plain form in torch, which is the definition, and a fused form for CUDA
(``tile_kernels``), which reads the tile once; the plain form reads and writes it many times.
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def add_logsumexp(
    logits: Float[Tensor, "tile_rows tile_columns"],
    row: Float[Tensor, " tile_rows"],
    column: Float[Tensor, " tile_columns"],
) -> None:
    """Add a tile to running log-sum-exps of its rows and columns, in place."""
    if (kernels := _kernels(logits)) is not None:
        kernels.add_logsumexp(logits, row, column)
        return
    row.copy_(torch.logaddexp(row, logits.logsumexp(1)))
    column.copy_(torch.logaddexp(column, logits.logsumexp(0)))


def softmax_weights(
    logits: Float[Tensor, "tile_rows tile_columns"],
    row: Float[Tensor, " tile_rows"],
    column: Float[Tensor, " tile_columns"],
    partner: int | None,
    dtype: torch.dtype,
) -> Float[Tensor, "tile_rows tile_columns"]:
    """Compute ``exp(logits - row) + exp(logits - column)``."""
    if (kernels := _kernels(logits)) is not None:
        weights: Tensor = kernels.softmax_weights(logits, row, column, partner, dtype)
        return weights
    weights = (logits - row[:, None]).exp_()
    weights += (logits - column[None, :]).exp_()
    return _without_partners(weights, partner).to(dtype)


def sigmoid_weights(
    logits: Float[Tensor, "tile_rows tile_columns"],
    bias: Float[Tensor, ""],
    partner: int | None,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, "tile_rows tile_columns"]]:
    """Compute the sums of softplus and of sigmoid of ``logits + bias``, and the sigmoids."""
    if (kernels := _kernels(logits)) is not None:
        sums: tuple[Tensor, Tensor, Tensor] = kernels.sigmoid_weights(logits, bias, partner, dtype)
        return sums
    logits += bias
    loss = -F.logsigmoid(-logits).sum()
    weights = logits.sigmoid_()
    total = weights.sum()
    return loss, total, _without_partners(weights, partner).to(dtype)


def _without_partners(weights: Tensor, partner: int | None) -> Tensor:
    if partner is not None and -len(weights) < partner < weights.shape[1]:
        weights.diagonal(partner).zero_()
    return weights


def _kernels(logits: Tensor) -> ModuleType | None:
    """Return the fused form if it can run: fp32 on CUDA, with Triton installed."""
    return _load_kernels() if logits.is_cuda and logits.dtype == torch.float32 else None


@cache
def _load_kernels() -> ModuleType | None:
    # Cached, because Python searches again for a missing package at every import.
    try:
        from clipkit.losses.kernels import tile_kernels
    except ImportError:  # no Triton, as on some platforms
        return None
    return tile_kernels
