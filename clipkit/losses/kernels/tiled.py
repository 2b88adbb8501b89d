"""Sums over the matrix of similarities, a tile at a time, in memory linear in the batch.

Nothing here uses autograd: each function returns a value together with its gradients, and
``attach_gradients`` attaches both. Gradients are computed in the forward pass because then neither
the logits nor the gathered tower have to be kept.

Rows are images of this rank, columns are texts of all ranks; ``scaled`` rows are multiplied by the
scale, so that a tile of logits is one product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.losses.kernels.products import EXACT, Products
from clipkit.losses.kernels.tile_body import add_logsumexp, sigmoid_weights, softmax_weights

CPU_TILE = 1024
"""Time per logit is the same within 4 % from 256 to 2,048 on a CPU core (D=512, fp32)."""

GPU_TILE_AREA = 4096 * 8192
"""Logits of a tile on a GPU: 128 MiB, wide if this rank has few rows. Tiles of 64 MiB take 12 %
longer on an H200, tiles of 256 MiB 3 to 7 % less time and up to 400 MiB more memory."""

GPU_TILE_ROWS = 4096

CPU_PLAIN = 2048
"""Softmax: up to this size the complete matrix is faster on a CPU core (0.81 of the time of tiles
at 1,100 pairs, 0.89 at 2,048, 0.97 at 3,072, where a copy already takes 36 MiB)."""


@dataclass(frozen=True, slots=True)
class TileShape:
    """Number of rows and columns of the matrix that are held at a time."""

    rows: int
    columns: int


def choose_tile(tile_size: int | None, rows: Float[Tensor, "rows D"]) -> TileShape:
    """Choose the shape of a tile: a square of ``tile_size``, else by device.

    Tiles of a GPU have a fixed area, because each tile costs the same number of kernel launches: a
    rank with 512 rows of 262,144 would need 64 square tiles, and needs 4.
    """
    if tile_size is not None:
        return TileShape(tile_size, tile_size)
    if rows.device.type == "cpu":
        return TileShape(CPU_TILE, CPU_TILE)
    height = max(1, min(len(rows), GPU_TILE_ROWS))
    return TileShape(height, max(1, GPU_TILE_AREA // height))


def choose_softmax_tile(
    tile_size: int | None, rows: Float[Tensor, "rows D"], columns: Float[Tensor, "columns D"]
) -> TileShape:
    """Choose the shape of a tile of a softmax: the complete matrix if that is faster.

    The logits of a single tile are kept between the two passes, which takes the time of the plain
    formula under autograd (38.3 against 39.0 ms at 1,024 pairs). A sigmoid has one pass and keeps
    nothing.
    """
    longest = max(len(rows), len(columns))
    if tile_size is None and rows.device.type == "cpu" and longest <= CPU_PLAIN:
        return TileShape(max(longest, 1), max(longest, 1))
    return choose_tile(tile_size, rows)


class _Logits:
    """Tiles of ``scaled @ columns.T``; a single tile is computed once and kept."""

    def __init__(
        self,
        scaled: Tensor,
        columns: Tensor,
        tile: TileShape,
        products: Products,
        without_own: int | None = None,
    ) -> None:
        self.scaled, self.columns = products.operand(scaled), products.operand(columns)
        self.tile, self.products = tile, products
        self.without_own = without_own
        self.kept: Tensor | None = None
        self.is_single = len(scaled) <= tile.rows and len(columns) <= tile.columns

    def tiles(self) -> Iterator[tuple[slice, slice, Tensor]]:
        for i in range(0, len(self.scaled), self.tile.rows):
            rows = slice(i, min(i + self.tile.rows, len(self.scaled)))
            for j in range(0, len(self.columns), self.tile.columns):
                columns = slice(j, min(j + self.tile.columns, len(self.columns)))
                yield rows, columns, self._tile(rows, columns)

    def _tile(self, rows: slice, columns: slice) -> Tensor:
        if self.kept is not None:
            return self.kept
        logits = self.products.multiply(self.scaled[rows], self.columns[columns].T)
        if self.without_own is not None:
            offset = self.without_own + rows.start - columns.start
            logits.diagonal(offset).fill_(-torch.inf)
        if self.is_single:
            self.kept = logits
        return logits


class SoftmaxTiles:
    """The two passes of a softmax over rows and over columns of the same matrix.

    Args:
        scaled: Rows of this rank, multiplied by the scale and rounded for ``products``.
        columns: Columns of all ranks, rounded for ``products``.
        tile: Shape of a tile.
        without_own: Column of the first row's partner, to exclude each row's own column; None to
            include it.
        products: Precision of the products.
        apart: Columns of the rows' partners, whose weights are near 1 in a solved batch, to compute
            them in fp32; None to round them like the others.
    """

    def __init__(
        self,
        scaled: Float[Tensor, "rows D"],
        columns: Float[Tensor, "columns D"],
        tile: TileShape,
        without_own: int | None = None,
        products: Products = EXACT,
        apart: slice | None = None,
    ) -> None:
        self.scaled, self.columns, self.apart = scaled, columns, apart
        self._logits = _Logits(scaled, columns, tile, products, without_own)
        self._products = products

    def tiles(self) -> Iterator[tuple[slice, slice, Float[Tensor, "tile_rows tile_columns"]]]:
        """Iterate over rows, columns and logits of each tile; the logits must not be changed."""
        return self._logits.tiles()

    def logsumexp(self) -> tuple[Float[Tensor, " rows"], Float[Tensor, " columns"]]:
        """Compute the log-sum-exp of each row, and of each column over the rows of this rank."""
        row = self.scaled.new_full((len(self.scaled),), -torch.inf)
        column = self.scaled.new_full((len(self.columns),), -torch.inf)
        for i, j, logits in self.tiles():
            add_logsumexp(logits, row[i], column[j])
        return row, column

    def weighted_sums(
        self,
        row: Float[Tensor, " rows"],
        column: Float[Tensor, " columns"],
        need_rows: bool,
        need_columns: bool,
    ) -> tuple[Float[Tensor, "rows D"] | None, Float[Tensor, "columns D"] | None]:
        """Compute ``P @ columns``, ``P.T @ scaled``; P = exp(logits - row) + exp(logits - column).

        A normaliser of +inf excludes the softmax over its row or column.
        """
        to_rows = torch.zeros_like(self.scaled) if need_rows else None
        to_columns = torch.zeros_like(self.columns) if need_columns else None
        if not need_rows and not need_columns:
            return None, None
        products, left, right = self._products, self._logits.scaled, self._logits.columns
        for i, j, logits in self.tiles():
            partner = None if self.apart is None else self.apart.start + i.start - j.start
            weights = softmax_weights(logits, row[i], column[j], partner, right.dtype)
            if to_rows is not None:
                products.add_product(to_rows[i], weights, right[j])
            if to_columns is not None:
                products.add_product(to_columns[j], weights.T, left[i])
        self._add_partners(row, column, to_rows, to_columns)
        return to_rows, to_columns

    def _add_partners(
        self, row: Tensor, column: Tensor, to_rows: Tensor | None, to_columns: Tensor | None
    ) -> None:
        """Add the combinations of each row with its partner, in fp32."""
        if self.apart is None:
            return
        num_own = self.apart.stop - self.apart.start
        left, right = self.scaled[:num_own], self.columns[self.apart]
        logits = (left * right).sum(1)
        weights = (logits - row[:num_own]).exp() + (logits - column[self.apart]).exp()
        if to_rows is not None:
            to_rows[:num_own] += weights[:, None] * right
        if to_columns is not None:
            to_columns[self.apart] += weights[:, None] * left


@dataclass(frozen=True, slots=True)
class SigmoidSums:
    """Sums over the matrix with every combination as a negative."""

    loss: Float[Tensor, ""]  # sum of softplus(logits)
    weight: Float[Tensor, ""]  # sum of P = sigmoid(logits)
    to_rows: Float[Tensor, "rows D"] | None  # ``P @ columns``, or None
    to_columns: Float[Tensor, "columns D"] | None  # ``P.T @ scaled``, or None

    def stacked(self, below: SigmoidSums) -> SigmoidSums:
        """Add the sums of further rows, over the first of the same columns."""
        to_rows, to_columns = self.to_rows, self.to_columns
        if to_rows is not None and below.to_rows is not None:
            to_rows = torch.cat([to_rows, below.to_rows])
        if to_columns is not None and below.to_columns is not None:
            to_columns = to_columns.clone()
            to_columns[: len(below.to_columns)] += below.to_columns
        return SigmoidSums(self.loss + below.loss, self.weight + below.weight, to_rows, to_columns)


def sigmoid_sums(
    scaled: Float[Tensor, "rows D"],
    columns: Float[Tensor, "columns D"],
    bias: Float[Tensor, ""],
    tile: TileShape,
    need_rows: bool,
    need_columns: bool,
    products: Products = EXACT,
    apart: slice | None = None,
) -> SigmoidSums:
    """Compute value and gradient of all combinations as negatives, in one pass of three products.

    The arguments are those of ``SoftmaxTiles``.
    """
    loss, total = scaled.new_zeros(()), scaled.new_zeros(())
    to_rows = torch.zeros_like(scaled) if need_rows else None
    to_columns = torch.zeros_like(columns) if need_columns else None
    tiles = _Logits(scaled, columns, tile, products)
    for i, j, logits in tiles.tiles():
        partner = None if apart is None else apart.start + i.start - j.start
        tile_loss, tile_weight, weights = sigmoid_weights(
            logits, bias, partner, tiles.columns.dtype
        )
        loss += tile_loss
        total += tile_weight
        if to_rows is not None:
            products.add_product(to_rows[i], weights, tiles.columns[j])
        if to_columns is not None:
            products.add_product(to_columns[j], weights.T, tiles.scaled[i])
    if apart is not None:
        weights = torch.sigmoid((scaled * columns[apart]).sum(1) + bias)[:, None]
        if to_rows is not None:
            to_rows += weights * columns[apart]
        if to_columns is not None:
            to_columns[apart] += weights * scaled
    return SigmoidSums(loss, total, to_rows, to_columns)
