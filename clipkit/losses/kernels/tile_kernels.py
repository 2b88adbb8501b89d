"""Fused passes over a tile of logits, in Triton; ``tile_body`` defines them.

Sums are in fp32. ``TRITON_INTERPRET=1`` runs the kernels on a CPU, as the tests without a GPU do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

# One program reduces ROWS x SPAN logits, COLUMNS at a time.
ROWS, SPAN, COLUMNS = 64, 1024, 64
COMBINED = 64
POINTS = 1024
NO_PARTNER = 2**30


def add_logsumexp(
    logits: Float[Tensor, "tile_rows tile_columns"],
    row: Float[Tensor, " tile_rows"],
    column: Float[Tensor, " tile_columns"],
) -> None:
    """Compute ``tile_body.add_logsumexp``."""
    height, width = logits.shape
    blocks, spans = triton.cdiv(height, ROWS), triton.cdiv(width, SPAN)
    of_rows, of_columns = logits.new_empty(spans, height), logits.new_empty(blocks, width)
    _partial_logsumexp[(blocks, spans)](
        logits, of_rows, of_columns, height, width, logits.stride(0), ROWS, SPAN, COLUMNS
    )
    for partial, total in ((of_rows, row), (of_columns, column)):
        count, length = partial.shape
        _combine[(triton.cdiv(length, COMBINED),)](partial, total, count, length, COMBINED)


def softmax_weights(
    logits: Float[Tensor, "tile_rows tile_columns"],
    row: Float[Tensor, " tile_rows"],
    column: Float[Tensor, " tile_columns"],
    partner: int | None,
    dtype: torch.dtype,
) -> Float[Tensor, "tile_rows tile_columns"]:
    """Compute ``tile_body.softmax_weights``."""
    height, width = logits.shape
    weights = torch.empty_like(logits, dtype=dtype)
    _softmax_weights[(height, triton.cdiv(width, POINTS))](
        logits, row, column, weights, width, logits.stride(0), weights.stride(0),
        NO_PARTNER if partner is None else partner, POINTS,
    )  # fmt: skip
    return weights


def sigmoid_weights(
    logits: Float[Tensor, "tile_rows tile_columns"],
    bias: Float[Tensor, ""],
    partner: int | None,
    dtype: torch.dtype,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], Float[Tensor, "tile_rows tile_columns"]]:
    """Compute ``tile_body.sigmoid_weights``."""
    height, width = logits.shape
    spans = triton.cdiv(width, POINTS)
    weights = torch.empty_like(logits, dtype=dtype)
    sums = logits.new_empty(2, height * spans)
    _sigmoid_weights[(height, spans)](
        logits, bias, weights, sums, width, logits.stride(0), weights.stride(0), height * spans,
        NO_PARTNER if partner is None else partner, POINTS,
    )  # fmt: skip
    loss, total = sums.sum(1)
    return loss, total, weights


@triton.jit  # type: ignore[untyped-decorator]
def _partial_logsumexp(  # type: ignore[no-untyped-def]
    logits,
    of_rows,
    of_columns,
    height,
    width,
    stride,
    ROWS: tl.constexpr,
    SPAN: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Log-sum-exp over SPAN columns of each row, and over ROWS rows of each column."""
    block, span = tl.program_id(0), tl.program_id(1)
    rows = block * ROWS + tl.arange(0, ROWS)
    starts = rows.to(tl.int64) * stride
    largest = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    for offset in range(0, SPAN, COLUMNS):
        columns = span * SPAN + offset + tl.arange(0, COLUMNS)
        inside = (rows[:, None] < height) & (columns[None, :] < width)
        x = tl.load(logits + starts[:, None] + columns[None, :], inside, other=float("-inf"))
        higher = tl.maximum(largest, tl.max(x, 1))
        # if all are -inf, the difference must not be NaN
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        total = total * tl.exp(largest - shift) + tl.sum(tl.exp(x - shift[:, None]), 1)
        largest = higher
        top = tl.max(x, 0)
        shift = tl.where(top == float("-inf"), 0.0, top)
        sums = tl.sum(tl.exp(x - shift[None, :]), 0)
        tl.store(
            of_columns + block.to(tl.int64) * width + columns, shift + tl.log(sums), columns < width
        )
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    tl.store(of_rows + span.to(tl.int64) * height + rows, shift + tl.log(total), rows < height)


@triton.jit  # type: ignore[untyped-decorator]
def _combine(partial, total, count, length, COMBINED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Add ``count`` partial log-sum-exps of each element to its total."""
    places = tl.program_id(0) * COMBINED + tl.arange(0, COMBINED)
    inside = places < length
    largest = tl.load(total + places, inside, other=float("-inf"))
    sums = tl.where(largest == float("-inf"), 0.0, 1.0)
    addresses = partial + places
    for _ in range(0, count):
        x = tl.load(addresses, inside, other=float("-inf"))
        addresses += length
        higher = tl.maximum(largest, x)
        shift = tl.where(higher == float("-inf"), 0.0, higher)
        sums = sums * tl.exp(largest - shift) + tl.exp(x - shift)
        largest = higher
    shift = tl.where(largest == float("-inf"), 0.0, largest)
    tl.store(total + places, shift + tl.log(sums), inside)


@triton.jit  # type: ignore[untyped-decorator]
def _softmax_weights(  # type: ignore[no-untyped-def]
    logits, row, column, weights, width, stride, out_stride, partner, POINTS: tl.constexpr
):
    number = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * POINTS + tl.arange(0, POINTS)
    inside = columns < width
    x = tl.load(logits + number * stride + columns, inside)
    of_row, of_column = tl.load(row + number), tl.load(column + columns, inside, other=0.0)
    result = tl.exp(x - of_row) + tl.exp(x - of_column)
    result = tl.where(columns - number == partner, 0.0, result)
    tl.store(weights + number * out_stride + columns, result, inside)


@triton.jit  # type: ignore[untyped-decorator]
def _sigmoid_weights(  # type: ignore[no-untyped-def]
    logits, bias, weights, sums, width, stride, out_stride, count, partner, POINTS: tl.constexpr
):
    number = tl.program_id(0).to(tl.int64)
    span = tl.program_id(1)
    columns = span * POINTS + tl.arange(0, POINTS)
    inside = columns < width
    x = tl.load(logits + number * stride + columns, inside, other=0.0) + tl.load(bias)
    small = tl.exp(-tl.abs(x))
    above = 1.0 + small
    # log1p: the rounding error of 1 + small is compensated (Kahan)
    log1p = tl.where(
        above == 1.0, small, tl.log(above) * small / tl.where(above == 1.0, 1.0, above - 1.0)
    )
    loss = tl.where(inside, tl.maximum(x, 0.0) + log1p, 0.0)
    result = tl.where(inside, tl.where(x >= 0, 1.0, small) / above, 0.0)
    place = number * tl.num_programs(1) + span
    tl.store(sums + place, tl.sum(loss, 0))
    tl.store(sums + count + place, tl.sum(result, 0))
    result = tl.where(columns - number == partner, 0.0, result)
    tl.store(weights + number * out_stride + columns, result, inside)
