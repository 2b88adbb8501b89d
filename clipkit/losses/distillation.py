"""Learning from a teacher's similarities and features, exact over all ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.distributed.collectives import (
    gather_rows,
    gather_sizes,
    logsumexp_over_ranks,
    sum_over_ranks,
    sum_rows_to_owner,
    world_size,
)
from clipkit.errors import ConfigError
from clipkit.losses.contrastive import checked_tile
from clipkit.losses.kernels.attach import attach_gradients, outside_compiled_graph
from clipkit.losses.kernels.pairs import PairInputs, accumulation_dtype, pair_inputs
from clipkit.losses.kernels.tiled import SoftmaxTiles, TileShape, choose_tile
from clipkit.losses.kernels.tiled_divergence import NormalisedTiles, divergence_sums
from clipkit.losses.label import mean_over_ranks
from clipkit.losses.teachers import Teacher
from clipkit.losses.term import LossTerm, Term, count
from clipkit.types import Batch, Embeddings


@final
class DistillationLoss(LossTerm):
    """Match a teacher's distribution over captions for each picture, and the other way round.

    The similarity part is KL(teacher || student), the mean over pairs and both directions, over the
    batch of all ranks, in memory linear in the batch; the teacher may be of another width. The
    feature part is 1 - cosine, averaged over both towers; for unit-norm embeddings that is half
    their squared distance. ``batch.pair_mask`` leaves pairs out.

    Args:
        teacher: Gives the embeddings to learn from.
        similarity_weight: Factor of the similarity part.
        feature_weight: Factor of the feature part; needs a teacher of the student's width.
        tile_size: Rows and columns of the similarities that are held at a time; None chooses.

    Raises:
        ConfigError: If both weights are 0 or one is negative, or widths differ where they must not.
    """

    def __init__(
        self,
        teacher: Teacher,
        similarity_weight: float = 1.0,
        feature_weight: float = 0.0,
        tile_size: int | None = None,
    ) -> None:
        super().__init__()
        if min(similarity_weight, feature_weight) < 0 or not similarity_weight + feature_weight:
            raise ConfigError(
                f"similarity_weight and feature_weight: expected 0 or more and not both 0, "
                f"got {similarity_weight} and {feature_weight}"
            )
        self.teacher = teacher
        self.similarity_weight, self.feature_weight = similarity_weight, feature_weight
        self.tile_size = checked_tile(tile_size)

    def check(self, embeddings: Embeddings) -> None:
        """Every encoder will do; the teacher is looked at with the first batch."""

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """See :class:`DistillationLoss`; its samples are the pairs of all ranks."""
        if batch is None:
            raise ConfigError("distillation loss: expected a batch, got None")
        student = pair_inputs(embeddings, batch)
        with torch.no_grad():
            teacher = pair_inputs(self.teacher(batch), batch)
        parts: list[Term] = []
        if self.similarity_weight:
            term = similarity_term(student, teacher, self.tile_size)
            parts.append(replace(term, value=self.similarity_weight * term.value))
        if self.feature_weight:
            term = feature_term(student, teacher)
            parts.append(replace(term, value=self.feature_weight * term.value))
        value = torch.stack([part.value for part in parts]).sum()
        return Term(value, parts[0].num_samples)


def feature_term(student: PairInputs, teacher: PairInputs) -> Term:
    """1 - cosine between student and teacher, averaged over both towers and all ranks.

    Args:
        student: Embeddings with gradient.
        teacher: Embeddings without, of the same width.

    Raises:
        ConfigError: If the widths differ.
    """
    if student.image.shape != teacher.image.shape:
        raise ConfigError(
            f"feature_weight: expected a teacher of the student's width "
            f"{student.image.shape[1]}, got {teacher.image.shape[1]}; use similarity_weight alone"
        )
    dtype = accumulation_dtype(student.image)
    cosines = sum(
        (own.to(dtype) * other.to(dtype)).sum(1)
        for own, other in ((student.image, teacher.image), (student.text, teacher.text))
    )
    assert isinstance(cosines, Tensor)
    size = torch.full((), float(len(cosines)), device=cosines.device)
    return mean_over_ranks((1 - cosines / 2).sum(), size, size)


@outside_compiled_graph
def similarity_term(student: PairInputs, teacher: PairInputs, tile_size: int | None) -> Term:
    """KL(teacher || student) over captions for each picture, and over pictures for each caption.

    Args:
        student: Embeddings with gradient.
        teacher: Embeddings without, of any width; the same pairs.
        tile_size: Width of a tile, or None.
    """
    device = student.image.device
    needs = student.needs_rows, student.needs_columns
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        sizes = [size for (size,) in gather_sizes(len(student.image), device=device)]
        value, gradients = _divergence(student, teacher, sizes, tile_size, needs)
    inputs = (student.image, student.text, student.scale)
    return Term(attach_gradients(value, gradients, inputs), count(sum(sizes), value))


def _divergence(
    student: PairInputs,
    teacher: PairInputs,
    sizes: list[int],
    tile_size: int | None,
    needs: tuple[bool, bool],
) -> tuple[Float[Tensor, ""], tuple[Tensor | None, Tensor | None, Tensor | None]]:
    rows, scale = student.image.detach().to(accumulation_dtype(student.image)), student.scale
    tile = choose_tile(tile_size, rows)
    total, to_rows, to_columns = divergence_sums(
        _normalised(student, sizes, tile), _normalised(teacher, sizes, tile), *needs
    )
    factor = 1 / (2 * max(sum(sizes), 1))
    value = factor * sum_over_ranks(total)
    factor *= world_size()
    to_scale = None
    if to_rows is not None:
        to_scale = factor * (to_rows * rows).sum()
        to_rows *= factor * scale.to(rows.dtype)
    if to_columns is not None:
        to_columns = sum_rows_to_owner(to_columns * factor, sizes)
    return value, (to_rows, to_columns, to_scale)


def _normalised(inputs: PairInputs, sizes: list[int], tile: TileShape) -> NormalisedTiles:
    """Tiles, and the normalisers of rows and columns over all ranks."""
    dtype = accumulation_dtype(inputs.image)
    columns = gather_rows(inputs.text, sizes).to(dtype)
    tiles = SoftmaxTiles(inputs.image.to(dtype) * inputs.scale.to(dtype), columns, tile)
    row, column = tiles.logsumexp()
    return NormalisedTiles(tiles, row, logsumexp_over_ranks(column))
