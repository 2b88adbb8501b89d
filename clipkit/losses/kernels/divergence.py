"""Divergence between two matrices of similarities, a tile at a time, and its gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.distributed.collectives import (
    gather_rows,
    logsumexp_over_ranks,
    sum_over_ranks,
    world_size,
)
from clipkit.losses.kernels.pairs import (
    PairGradients,
    Pairs,
    accumulation_dtype,
    gather_columns,
    pair_gradients,
    scaled_rows,
)
from clipkit.losses.kernels.tiled import SoftmaxTiles, TileShape, choose_tile


@dataclass(frozen=True, slots=True)
class NormalisedTiles:
    """Logits together with the normalisers that turn them into probabilities."""

    tiles: SoftmaxTiles  # rows of this rank, columns of all ranks
    row: Float[Tensor, " rows"]  # log-sum-exp of each row
    column: Float[Tensor, " columns"]  # log-sum-exp of each column over the rows of all ranks


def divergence_and_gradients(
    student: Pairs, teacher: Pairs, tile_size: int | None, needs: tuple[bool, bool]
) -> tuple[Float[Tensor, ""], PairGradients, int]:
    """Compute the mean KL(teacher || student) of both directions over all ranks."""
    columns, rows = gather_columns(student), scaled_rows(student)
    of_teacher = gather_rows(teacher.text, columns.pair_sizes).to(accumulation_dtype(teacher.text))
    tile = choose_tile(tile_size, rows.rows)
    total, to_rows, to_columns = divergence_sums(
        _normalised(rows.scaled, columns.values, tile),
        _normalised(scaled_rows(teacher).scaled, of_teacher, tile),
        *needs,
    )
    factor = 1 / (2 * max(columns.num_pairs, 1))
    value, factor = factor * sum_over_ranks(total), factor * world_size()
    gradients = pair_gradients(columns, rows, to_rows, to_columns, factor)
    return value, gradients, columns.num_pairs


def _normalised(
    scaled: Float[Tensor, "rows D"], columns: Float[Tensor, "columns D"], tile: TileShape
) -> NormalisedTiles:
    """Return tiles, and the normalisers of rows and columns over all ranks."""
    tiles = SoftmaxTiles(scaled, columns, tile)
    row, column = tiles.logsumexp()
    return NormalisedTiles(tiles, row, logsumexp_over_ranks(column))


def divergence_sums(
    student: NormalisedTiles, teacher: NormalisedTiles, need_rows: bool, need_columns: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, "rows D"] | None, Float[Tensor, "columns D"] | None]:
    """Sum KL(teacher || student) over rows and columns, and the products for its gradient.

    With P the probabilities over rows plus those over columns, the gradient with respect to the
    student's logits is ``P_student - P_teacher``.
    """
    own = student.tiles
    total = own.scaled.new_zeros(())
    to_rows = torch.zeros_like(own.scaled) if need_rows else None
    to_columns = torch.zeros_like(own.columns) if need_columns else None
    for (i, j, logits), (_, _, other) in zip(own.tiles(), teacher.tiles.tiles(), strict=True):
        weights = torch.zeros_like(logits)
        for of_student, of_teacher in (
            (student.row[i, None], teacher.row[i, None]),
            (student.column[None, j], teacher.column[None, j]),
        ):
            log_student, log_teacher = logits - of_student, other - of_teacher
            probability = log_teacher.exp()
            total += (probability * log_teacher.sub_(log_student)).sum()
            weights += log_student.exp_().sub_(probability)
        if to_rows is not None:
            to_rows[i].addmm_(weights, own.columns[j])
        if to_columns is not None:
            to_columns[j].addmm_(weights.T, own.scaled[i])
    return total, to_rows, to_columns
