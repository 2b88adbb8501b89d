"""Operations on the logits of one tile between the products.

Each function has a plain form in torch, which is the definition, and a fused form for CUDA
(``tile_kernels``), which reads the tile once; the plain form reads and writes it many times. The
fused form is used only for tiles where it was measured to be faster.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType, ModuleType
from typing import Final, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

Passes = Literal["softmax", "sigmoid"]
"""The loss whose passes over a tile are meant."""

FUSED_FROM: Final[Mapping[tuple[Passes, torch.dtype], int]] = MappingProxyType(
    {
        ("softmax", torch.float32): 4096 * 4096,  # 97 ms instead of 209, products in TF32
        ("softmax", torch.bfloat16): 4096 * 8192,  # 54.6 ms; plain 185 in tiles of half the size
    }
)
"""Number of logits of a tile from which the fused form was measured to be faster than the plain
one, by loss and data type of the weights (fp32 for products in fp32 and in TF32).

Measured on an H200: forward and backward of 65,536 pairs. Both forms with fp32 weights in tiles of
4,096 x 4,096; with bf16 weights the fused form in tiles of 4,096 x 8,192 only, and the plain one in
those of 4,096 x 4,096. Smaller tiles, and those of the sigmoid, were not compared: add an entry
here with the figures of ``tools/bench_gpu_loss.py``.
"""


def is_fused_faster(passes: Passes, rows: int, columns: int, weights: torch.dtype) -> bool:
    """Return whether the fused form was measured to be faster for such a tile, on CUDA.

    Args:
        passes: The loss.
        rows: Number of rows of the tile.
        columns: Number of columns of the tile.
        weights: Data type of the weights that the second pass returns.

    Examples:
        >>> is_fused_faster("softmax", 4096, 8192, torch.float32)
        True
        >>> is_fused_faster("softmax", 512, 4096, torch.float32)
        False
    """
    least = FUSED_FROM.get((passes, weights))
    return least is not None and rows * columns >= least


def add_logsumexp(
    logits: Float[Tensor, "tile_rows tile_columns"],
    row: Float[Tensor, " tile_rows"],
    column: Float[Tensor, " tile_columns"],
) -> None:
    """Add a tile to running log-sum-exps of its rows and columns, in place."""
    if (kernels := _kernels(logits, "softmax", logits.dtype)) is not None:
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
    if (kernels := _kernels(logits, "softmax", dtype)) is not None:
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
    if (kernels := _kernels(logits, "sigmoid", dtype)) is not None:
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


def _kernels(logits: Tensor, passes: Passes, weights: torch.dtype) -> ModuleType | None:
    """Return the fused form if it can run (fp32 on CUDA, with Triton installed) and is faster.

    ``torch.compile`` fuses the plain form by itself.
    """
    if torch.compiler.is_compiling() or not logits.is_cuda or logits.dtype != torch.float32:
        return None
    rows, columns = logits.shape
    return load_kernels() if is_fused_faster(passes, rows, columns, weights) else None


@cache
def load_kernels() -> ModuleType | None:
    """Return the fused form; None without Triton."""
    # Cached, because Python searches again for a missing package at every import.
    try:
        from clipkit.losses.kernels import tile_kernels
    except ImportError:  # no Triton, as on some platforms
        return None
    return tile_kernels
