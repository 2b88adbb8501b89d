"""Rows of this rank, columns of all ranks, and the matches between them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.distributed.collectives import (
    gather_rows,
    gather_sizes,
    own_slice,
    rank,
    sum_rows_to_owner,
    world_size,
)
from clipkit.losses.kernels.products import EXACT, Products
from clipkit.losses.kernels.text_exchange import LateText, TextExchange

PairGradients = tuple[Tensor | LateText | None, ...]
"""Gradients of image, text, scale, negative image and negative text."""


class Pairs(NamedTuple):
    """Pairs of this rank: the differentiable inputs of a contrastive loss."""

    image: Float[Tensor, "B D"]  # unit-norm embeddings of the images
    text: Float[Tensor, "B D"]  # unit-norm embeddings of the texts; row i belongs to image i
    logit_scale: Float[Tensor, ""]  # inverse temperature, linear
    # group ids over all ranks. Pairs with the same non-negative id match each other; a negative id
    # matches no other pair. None if every pair matches itself only
    groups: Int64[Tensor, " B"] | None = None
    # unit-norm embeddings of images that match no text of the batch
    negative_image: Float[Tensor, "negative_images D"] | None = None
    # unit-norm embeddings of texts that match no image of the batch
    negative_text: Float[Tensor, "negative_texts D"] | None = None
    # number of pairs of each rank; None to exchange it
    rank_sizes: Sequence[int] | None = None
    # number of negative texts of each rank; None for none, if the number of pairs is known
    negative_sizes: Sequence[int] | None = None
    # positions in the batch of the pairs; None for all
    selected: Int64[Tensor, " pairs"] | None = None
    # exchange of ``text`` that has begun; None to begin it in the loss
    exchange: TextExchange | None = None

    @property
    def rows(self) -> Float[Tensor, "rows D"]:
        """Images, then negative images; detached, in the precision of the sums."""
        rows = self.image.detach()
        if self.negative_image is not None:
            rows = torch.cat([rows, self.negative_image.detach()])
        return rows.to(accumulation_dtype(rows))

    @property
    def differentiable(self) -> tuple[Tensor | None, ...]:
        """Inputs that receive a gradient, in the order of ``PairGradients``."""
        return self.image, self.text, self.logit_scale, self.negative_image, self.negative_text

    def zeros(self) -> PairGradients:
        """Return a gradient of 0 for each differentiable input."""
        return tuple(None if x is None else torch.zeros_like(x) for x in self.differentiable)

    def without_negatives(self) -> Pairs:
        """Return the same pairs without texts and images that match nothing."""
        return self._replace(negative_image=None, negative_text=None, negative_sizes=None)

    @property
    def needs(self) -> tuple[bool, bool]:
        """Whether autograd needs the gradient of the rows (or the scale), and of the columns.

        The second is the same on all ranks, which exchange that gradient.
        """
        rows = self.image.requires_grad or self.logit_scale.requires_grad
        enabled = torch.is_grad_enabled()
        return enabled and rows, enabled and self.text.requires_grad


def number_singles(groups: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """Replace negative group ids by ids that no other pair of any rank has.

    Examples:
        >>> number_singles(torch.tensor([7, -100, -100])).tolist()
        [7, -2, -3]
    """
    singles = torch.arange(len(groups), device=groups.device) * world_size() + rank()
    return torch.where(groups >= 0, groups, -1 - singles)


class ScaledRows(NamedTuple):
    """Rows of this rank in the form that enters the products."""

    rows: Float[Tensor, "rows D"]  # detached embeddings
    scaled: Float[Tensor, "rows D"]  # ``rows * scale``, rounded for the products
    scale: Float[Tensor, ""]  # inverse temperature, in the precision of the sums


def scaled_rows(pairs: Pairs, products: Products = EXACT) -> ScaledRows:
    """Multiply the rows by the scale and round them once; later steps use the rounded values."""
    rows = pairs.rows
    scale = pairs.logit_scale.to(rows.dtype)
    scaled = products.rounded(rows * scale)
    return ScaledRows(rows if products.is_exact else scaled / scale, scaled, scale)


@dataclass(frozen=True, slots=True)
class Columns:
    """Texts of all ranks: first those of all pairs, then all negatives."""

    pair_sizes: Sequence[int]  # number of pairs of each rank
    negative_sizes: Sequence[int]  # number of negative texts of each rank
    # embeddings, in the precision of the sums, rounded for the products
    values: Float[Tensor, "columns D"]
    exchange: TextExchange | None = None  # exchange that brought the texts of the pairs

    @property
    def num_pairs(self) -> int:
        """Number of pairs of all ranks."""
        return sum(self.pair_sizes)

    @property
    def own(self) -> slice:
        """Columns of this rank's pairs."""
        return own_slice(self.pair_sizes)

    def to_owners(self, sums: Float[Tensor, "columns D"]) -> tuple[Tensor | LateText, Tensor]:
        """Sum contributions to every column over ranks; each rank keeps its own columns."""
        of_pairs, late = sums[: self.num_pairs], None
        if self.exchange is not None:
            late = self.exchange.begin_gradient(of_pairs, self.pair_sizes)
        pairs = late or sum_rows_to_owner(of_pairs, self.pair_sizes)
        negatives = sums[self.num_pairs :]
        if len(negatives):
            negatives = sum_rows_to_owner(negatives, self.negative_sizes)
        return pairs, negatives


def gather_columns(pairs: Pairs, products: Products = EXACT) -> Columns:
    """Gather the texts of all ranks in their own precision, and round them for the products."""
    pair_sizes, negative_sizes = _sizes(pairs)
    exchange = pairs.exchange
    values = None if exchange is None else exchange.gathered(pairs.text)
    if values is None:
        exchange, values = None, gather_rows(pairs.text, pair_sizes)
    if sum(negative_sizes):
        negatives = pairs.text[:0] if pairs.negative_text is None else pairs.negative_text
        values = torch.cat([values, gather_rows(negatives, negative_sizes)])
    values = products.rounded(values.to(accumulation_dtype(values)))
    return Columns(pair_sizes, negative_sizes, values, exchange)


def _sizes(pairs: Pairs) -> tuple[Sequence[int], Sequence[int]]:
    """Return the numbers of pairs and of negative texts of each rank."""
    if pairs.rank_sizes is not None:
        return pairs.rank_sizes, pairs.negative_sizes or [0] * len(pairs.rank_sizes)
    num_negatives = 0 if pairs.negative_text is None else len(pairs.negative_text)
    sizes = gather_sizes(len(pairs.text), num_negatives, device=pairs.text.device)
    return [size[0] for size in sizes], [size[1] for size in sizes]


@dataclass(frozen=True, slots=True)
class PositiveSums:
    """Sums over the matching combinations of this rank's rows; linear in memory and time."""

    num: Float[Tensor, ""]  # number of matching combinations
    value: Float[Tensor, ""]  # sum of their weights times similarity (without the scale)
    to_rows: Float[Tensor, "B D"]  # gradient of ``value`` with respect to the rows
    where: slice  # columns that ``to_columns`` refers to
    to_columns: Float[Tensor, "columns D"]  # gradient of ``value`` with respect to these columns


def positive_sums(
    image: Float[Tensor, "B D"], columns: Columns, groups: Int64[Tensor, " B"] | None, average: bool
) -> PositiveSums:
    """Sum the similarities of this rank's images with the texts that match them.

    Groups need no tile of the matrix: the sum of ``image @ text`` over a group's texts is
    ``image @ (sum of the texts)``. With ``average`` a match has the weight 1 / size of its group
    (softmax), else 1 (sigmoid).
    """
    text, own = columns.values[: columns.num_pairs], columns.own
    if groups is None:
        num = image.new_full((), len(image))
        value = (image * text[own]).sum()
        return PositiveSums(num, value, text[own], own, image)
    number, sizes = numbered_groups(gather_rows(number_singles(groups), columns.pair_sizes))
    weight = sizes.clamp(min=1).to(text).reciprocal()
    weight = weight if average else torch.ones_like(weight)
    of_text = text.new_zeros(len(sizes), text.shape[1]).index_add_(0, number, text)
    of_image = torch.zeros_like(of_text).index_add_(0, number[own], image)
    to_rows = (of_text * weight[:, None])[number[own]]
    to_columns = (of_image * weight[:, None])[number]
    num = sizes[number[own]].sum().to(text)
    return PositiveSums(num, (image * to_rows).sum(), to_rows, slice(0, len(text)), to_columns)


def numbered_groups(groups: Int64[Tensor, " N"]) -> tuple[Int64[Tensor, " N"], Int64[Tensor, " N"]]:
    """Renumber groups from 0 in ascending order of their ids.

    Unlike ``torch.unique`` the shape of the result does not depend on values, so that the CPU does
    not wait for a GPU. The sizes of unused numbers are 0.

    Examples:
        >>> numbered_groups(torch.tensor([7, -2, 7]))
        (tensor([1, 0, 1]), tensor([1, 2, 0]))
    """
    ascending, order = groups.sort(stable=True)
    begins = torch.zeros_like(ascending)
    begins[1:] = ascending[1:] != ascending[:-1]
    number = torch.empty_like(order).scatter_(0, order, begins.cumsum(0))
    sizes = torch.zeros_like(groups).scatter_add_(0, number, torch.ones_like(groups))
    return number, sizes


def accumulation_dtype(values: Tensor) -> torch.dtype:
    """Return fp32 for half precision, else the precision of the values."""
    return torch.promote_types(values.dtype, torch.float32)


def pair_gradients(
    columns: Columns,
    rows: ScaledRows,
    to_rows: Float[Tensor, "rows D"] | None,
    to_columns: Float[Tensor, "columns D"] | None,
    factor: float,
) -> PairGradients:
    """Turn the gradient G of the logits into gradients of the inputs, times ``factor``.

    ``to_rows`` is ``G @ columns``, ``to_columns`` is ``G.T @ scaled``; both are overwritten.
    """
    image = negative_image = negative_text = scale = None
    text: Tensor | LateText | None = None
    if to_rows is not None:
        scale = factor * (to_rows * rows.rows).sum()
        to_rows *= factor * rows.scale
        num_own = columns.pair_sizes[rank()]
        image, negative_image = to_rows[:num_own], to_rows[num_own:]
    if to_columns is not None:
        to_columns *= factor
        text, negative_text = columns.to_owners(to_columns)
    return image, text, scale, negative_image, negative_text
