"""Value and gradient of the softmax contrastive loss."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.distributed.collectives import logsumexp_over_ranks, sum_over_ranks, world_size
from clipkit.losses.kernels.pairs import (
    Columns,
    PairGradients,
    Pairs,
    pair_gradients,
    positive_sums,
    scaled_rows,
)
from clipkit.losses.kernels.products import Products
from clipkit.losses.kernels.tiled import SoftmaxTiles, choose_softmax_tile


def softmax_and_gradients(
    pairs: Pairs,
    columns: Columns,
    tile_size: int | None,
    products: Products,
    needs: tuple[bool, bool],
) -> tuple[Float[Tensor, ""], PairGradients]:
    """Compute the mean cross-entropy of both directions over all ranks, and its gradients.

    ``needs`` tells whether the gradients of the rows and of the columns are computed.
    """
    num_pairs, num_own = columns.num_pairs, len(pairs.image)
    rows = scaled_rows(pairs, products)
    tile = choose_softmax_tile(tile_size, rows.scaled, columns.values)
    # rows of hard negatives have no partner
    apart = None if products.is_exact or len(rows.rows) > num_own else columns.own
    tiles = SoftmaxTiles(rows.scaled, columns.values, tile, products=products, apart=apart)
    row, column = tiles.logsumexp()
    column = logsumexp_over_ranks(column)
    matches = positive_sums(rows.rows[:num_own], columns, pairs.groups, average=True)
    own_sum = row[:num_own].sum() - 2 * rows.scale * matches.value
    factor = 1 / (2 * max(num_pairs, 1))
    value = factor * (sum_over_ranks(own_sum) + column[:num_pairs].sum())
    # Negatives compete but are not queries: exp(logits - inf) = 0 in the second pass.
    row[num_own:], column[num_pairs:] = torch.inf, torch.inf
    to_rows, to_columns = tiles.weighted_sums(row, column, *needs)
    if to_rows is not None:
        to_rows[:num_own] -= 2 * matches.to_rows
    if to_columns is not None:
        to_columns[matches.where] -= 2 * rows.scale * matches.to_columns
    return value, pair_gradients(columns, rows, to_rows, to_columns, factor * world_size())
