"""Value and gradient of the contrastive loss whose denominators are moving averages."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.distributed.collectives import gather_rows, logsumexp_over_ranks, world_size
from clipkit.losses.kernels.pairs import (
    Columns,
    PairGradients,
    Pairs,
    ScaledRows,
    pair_gradients,
    scaled_rows,
)
from clipkit.losses.kernels.tiled import SoftmaxTiles, choose_softmax_tile


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of each sample with the other samples of the batch of all ranks."""

    tiles: SoftmaxTiles  # logits of this rank's rows; the logit of a pair with itself is -inf
    rows: ScaledRows  # images of this rank
    partner: Float[Tensor, " N"]  # logit of each pair of all ranks with itself
    # logarithm of the mean over j != i of exp(s_ij - s_ii); row 0 for the images of all ranks, row
    # 1 for their texts
    log_means: Float[Tensor, "2 N"]


def compare_with_others(pairs: Pairs, columns: Columns, tile_size: int | None) -> Comparison:
    """Compute the logarithm of the denominator of every sample of all ranks, at least two."""
    rows, own = scaled_rows(pairs), columns.own
    tile = choose_softmax_tile(tile_size, rows.rows, columns.values)
    tiles = SoftmaxTiles(rows.scaled, columns.values, tile, without_own=own.start)
    row, column = tiles.logsumexp()
    partner = gather_rows((rows.scaled * columns.values[own]).sum(1), columns.pair_sizes)
    of_images = gather_rows(row, columns.pair_sizes)
    sums = torch.stack([of_images, logsumexp_over_ranks(column)])
    return Comparison(tiles, rows, partner, sums - partner - math.log(columns.num_pairs - 1))


def global_softmax_and_gradients(
    columns: Columns,
    comparison: Comparison,
    log_averages: Float[Tensor, "2 N"],
    needs: tuple[bool, bool],
) -> tuple[Float[Tensor, ""], PairGradients]:
    """Compute the mean of log u, and the gradient of mean(g / u) with u held constant.

    ``comparison`` contains log g, ``log_averages`` is log u; ``needs`` tells whether the gradients
    of the rows and of the columns are computed.
    """
    rows, own, num_pairs = comparison.rows, columns.own, columns.num_pairs
    normaliser = comparison.partner + log_averages + math.log(num_pairs - 1)
    to_rows, to_columns = comparison.tiles.weighted_sums(normaliser[0, own], normaliser[1], *needs)
    pull = (comparison.log_means - log_averages).exp().sum(0)[own, None]  # both directions
    if to_rows is not None:
        to_rows -= pull * columns.values[own]
    if to_columns is not None:
        to_columns[own] -= pull * rows.rows * rows.scale
    factor = world_size() / (2 * num_pairs)
    return log_averages.mean(), pair_gradients(columns, rows, to_rows, to_columns, factor)
