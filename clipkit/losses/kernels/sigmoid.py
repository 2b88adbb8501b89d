"""Value and gradient of the sigmoid contrastive loss."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from clipkit.distributed.collectives import sum_over_ranks, world_size
from clipkit.losses.kernels.pairs import (
    Columns,
    PairGradients,
    Pairs,
    pair_gradients,
    positive_sums,
    scaled_rows,
)
from clipkit.losses.kernels.products import Products
from clipkit.losses.kernels.tiled import SigmoidSums, choose_tile, sigmoid_sums


def sigmoid_and_gradients(
    pairs: Pairs,
    columns: Columns,
    bias: Float[Tensor, ""],
    tile_size: int | None,
    products: Products,
    needs: tuple[bool, bool],
) -> tuple[Float[Tensor, ""], PairGradients]:
    """Compute the binary cross-entropy per pair of all ranks; gradients of the pairs and the bias.

    ``needs`` tells whether the gradients of the rows and of the columns are computed.
    """
    rows, num_own = scaled_rows(pairs, products), len(pairs.image)
    bias = bias.to(rows.rows.dtype)
    sums = _negative_sums(rows.scaled, num_own, columns, bias, tile_size, products, needs)
    matches = positive_sums(rows.rows[:num_own], columns, pairs.groups, average=False)
    # -log sigmoid(x) = softplus(x) - x turns a combination from "no match" into "match".
    own_sum = sums.loss - rows.scale * matches.value - bias * matches.num
    value = sum_over_ranks(own_sum) / max(columns.num_pairs, 1)
    factor = world_size() / max(columns.num_pairs, 1)
    if sums.to_rows is not None:
        sums.to_rows[:num_own] -= matches.to_rows
    if sums.to_columns is not None:
        sums.to_columns[matches.where] -= rows.scale * matches.to_columns
    gradients = pair_gradients(columns, rows, sums.to_rows, sums.to_columns, factor)
    return value, (*gradients, factor * (sums.weight - matches.num))


def _negative_sums(
    scaled: Tensor,
    num_own: int,
    columns: Columns,
    bias: Tensor,
    tile_size: int | None,
    products: Products,
    needs: tuple[bool, bool],
) -> SigmoidSums:
    """Sum over all combinations as if none matched; two negatives are not combined."""
    tile = choose_tile(tile_size, scaled)
    apart = None if products.is_exact else columns.own
    sums = sigmoid_sums(scaled[:num_own], columns.values, bias, tile, *needs, products, apart)
    if len(scaled) == num_own:
        return sums
    pairs = columns.values[: columns.num_pairs]
    return sums.stacked(sigmoid_sums(scaled[num_own:], pairs, bias, tile, *needs, products))
