"""The distance between two matrices of similarities, a tile at a time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.losses.kernels.tiled import SoftmaxTiles


@dataclass(frozen=True, slots=True)
class NormalisedTiles:
    """Logits together with what turns them into probabilities.

    Args:
        tiles: Rows of this rank, columns of all.
        row: Log of the sum of exp(logits) over each row.
        column: Log of the sum of exp(logits) over each column's rows of all ranks.
    """

    tiles: SoftmaxTiles
    row: Float[Tensor, " R"]
    column: Float[Tensor, " M"]


def divergence_sums(
    student: NormalisedTiles, teacher: NormalisedTiles, need_rows: bool, need_columns: bool
) -> tuple[Float[Tensor, ""], Float[Tensor, "R D"] | None, Float[Tensor, "M D"] | None]:
    """Sum of KL(teacher || student) over rows and over columns, and what its gradient needs.

    With P the probabilities over rows plus those over columns, the gradient with respect to the
    student's logits is ``P_student - P_teacher``.

    Args:
        student: Tiles of the same size and shape as the teacher's; the width D may differ.
        teacher: What to match.
        need_rows: Whether the product of the rows' gradient is wanted.
        need_columns: Whether that of the columns' gradient is wanted.

    Returns:
        This rank's part of the sum; ``P @ columns`` and ``P.T @ scaled`` with the difference as P.
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
