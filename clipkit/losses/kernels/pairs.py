"""Rows of this rank, columns of all ranks, and which of them match: what both losses start from."""

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
from clipkit.errors import ConfigError
from clipkit.losses.kernels.products import Products
from clipkit.types import Batch, Embeddings


@dataclass(frozen=True, slots=True)
class PairInputs:
    """The differentiable inputs of a contrastive loss on this rank, without masked pairs.

    Args:
        image: Unit-norm embeddings of the pictures.
        text: Unit-norm embeddings of the captions.
        scale: Inverse temperature, linear.
        groups: Pairs with the same number match each other, over all ranks.
        negative_image: Pictures that match no caption of the batch.
        negative_text: Captions that match no picture of the batch.
    """

    image: Float[Tensor, "B D"]
    text: Float[Tensor, "B D"]
    scale: Float[Tensor, ""]
    groups: Int64[Tensor, " B"] | None
    negative_image: Float[Tensor, "K D"] | None
    negative_text: Float[Tensor, "L D"] | None

    @property
    def rows(self) -> Float[Tensor, "R D"]:
        """Pictures, then negative pictures; detached, in the precision of the sums."""
        return _stack(self.image, self.negative_image)

    @property
    def differentiable(self) -> tuple[Tensor | None, ...]:
        """What a loss has gradients for."""
        return self.image, self.text, self.scale, self.negative_image, self.negative_text

    @property
    def needs_rows(self) -> bool:
        """Whether the gradient of the pictures or of the scale is wanted."""
        wanted = self.image.requires_grad or self.scale.requires_grad
        return torch.is_grad_enabled() and wanted

    @property
    def needs_columns(self) -> bool:
        """Whether the gradient of the captions is wanted; equal on all ranks, which exchange it."""
        return torch.is_grad_enabled() and self.text.requires_grad


def pair_inputs(embeddings: Embeddings, batch: Batch | None) -> PairInputs:
    """The embeddings, reduced to the pairs that the batch does not mask.

    Args:
        embeddings: Of this rank.
        batch: Read for ``groups`` and ``pair_mask``; without it every pair counts and matches
            itself alone.

    Returns:
        Inputs that are still part of the encoder's graph.

    Raises:
        ConfigError: If pictures and captions do not pair up.
    """
    image, text = embeddings.image, embeddings.text
    if text is None:
        raise ConfigError(
            "embeddings: expected those of captions, got none; the batch has no tokens, and only "
            "an objective of labels alone can do without"
        )
    if image.shape != text.shape:
        raise ConfigError(
            f"embeddings: expected as many captions as pictures, of equal width, "
            f"got image {tuple(image.shape)} and text {tuple(text.shape)}"
        )
    groups = None if batch is None else batch.groups
    mask = None if batch is None else batch.pair_mask
    if groups is not None:
        groups = singles_to_groups(groups)
    if mask is not None:
        image, text = image[mask], text[mask]
        groups = None if groups is None else groups[mask]
    return PairInputs(
        image,
        text,
        embeddings.logit_scale,
        groups,
        embeddings.negative_image,
        embeddings.negative_text,
    )


def singles_to_groups(groups: Int64[Tensor, " B"]) -> Int64[Tensor, " B"]:
    """Replace negative numbers ("matches itself alone") by numbers that nobody else has.

    Args:
        groups: Numbers of groups, 0 or more; negative where a pair has no group.

    Returns:
        Numbers, unique over all ranks where ``groups`` was negative.

    Examples:
        >>> singles_to_groups(torch.tensor([7, -100, -100])).tolist()
        [7, -2, -3]
    """
    own = torch.arange(len(groups), device=groups.device) * world_size() + rank()
    return torch.where(groups >= 0, groups, -1 - own)


class ScaledRows(NamedTuple):
    """Rows of this rank as the products see them.

    Args:
        rows: Detached embeddings.
        scaled: ``rows * scale``, rounded for the products.
        scale: Inverse temperature, in the precision of the sums.
    """

    rows: Float[Tensor, "R D"]
    scaled: Float[Tensor, "R D"]
    scale: Float[Tensor, ""]


def scaled_rows(inputs: PairInputs, products: Products) -> ScaledRows:
    """Multiply the rows by the scale and round once; what is rounded counts everywhere.

    Args:
        inputs: Pairs of this rank.
        products: Precision of the products.
    """
    rows = inputs.rows
    scale = inputs.scale.to(rows.dtype)
    scaled = products.rounded(rows * scale)
    return ScaledRows(rows if products.is_exact else scaled / scale, scaled, scale)


@dataclass(frozen=True, slots=True)
class Columns:
    """The captions of all ranks: first all pairs, then all negatives.

    Args:
        pair_sizes: Pairs of every rank.
        negative_sizes: Negative captions of every rank.
        values: Their embeddings, in the precision of the sums.
    """

    pair_sizes: Sequence[int]
    negative_sizes: Sequence[int]
    values: Float[Tensor, "M D"]

    @property
    def num_pairs(self) -> int:
        """Pairs of all ranks."""
        return sum(self.pair_sizes)

    @property
    def own(self) -> slice:
        """Where this rank's pairs lie."""
        return own_slice(self.pair_sizes)

    def to_owners(self, sums: Float[Tensor, "M D"]) -> tuple[Tensor, Tensor]:
        """Sum over ranks what was found for every column; each rank keeps its own."""
        pairs = sum_rows_to_owner(sums[: self.num_pairs], self.pair_sizes)
        negatives = sums[self.num_pairs :]
        if len(negatives):
            negatives = sum_rows_to_owner(negatives, self.negative_sizes)
        return pairs, negatives


def gather_columns(inputs: PairInputs) -> Columns:
    """Bring the captions of all ranks here: the one tower that travels, in its own precision."""
    num_negatives = 0 if inputs.negative_text is None else len(inputs.negative_text)
    sizes = gather_sizes(len(inputs.text), num_negatives, device=inputs.text.device)
    pair_sizes, negative_sizes = [size[0] for size in sizes], [size[1] for size in sizes]
    values = gather_rows(inputs.text, pair_sizes)
    if sum(negative_sizes):
        negatives = inputs.negative_text
        negatives = inputs.text[:0] if negatives is None else negatives
        values = torch.cat([values, gather_rows(negatives, negative_sizes)])
    return Columns(pair_sizes, negative_sizes, values.to(accumulation_dtype(values)))


@dataclass(frozen=True, slots=True)
class PositiveSums:
    """Sums over the matching combinations of this rank's rows; linear in memory and time.

    Args:
        num: How many combinations there are.
        value: Sum of their weights times similarity (without the scale).
        to_rows: Gradient of ``value`` with respect to the rows' embeddings.
        where: The columns that ``to_columns`` is about.
        to_columns: Gradient of ``value`` with respect to those columns' embeddings.
    """

    num: Float[Tensor, ""]
    value: Float[Tensor, ""]
    to_rows: Float[Tensor, "B D"]
    where: slice
    to_columns: Float[Tensor, "K D"]


def positive_sums(
    image: Float[Tensor, "B D"],
    columns: Columns,
    groups: Int64[Tensor, " B"] | None,
    average: bool,
) -> PositiveSums:
    """Sum the similarities of this rank's pictures with the captions that match them.

    Over groups this needs no tile of the matrix: the sum over a group's captions of ``image @
    caption`` is ``image @ (sum of the captions)``.

    Args:
        image: Pictures of this rank's pairs.
        columns: Captions of all ranks.
        groups: Numbers of this rank's groups; None where each pair matches itself alone.
        average: Weigh a match by 1 / size of its group (softmax) instead of by 1 (sigmoid).
    """
    text, own = columns.values[: columns.num_pairs], columns.own
    if groups is None:
        num = image.new_full((), len(image))
        value = (image * text[own]).sum()
        return PositiveSums(num, value, text[own], own, image)
    everyone = gather_rows(groups, columns.pair_sizes)
    number, sizes = numbered_groups(everyone)
    weight = sizes.clamp(min=1).to(text).reciprocal()
    weight = weight if average else torch.ones_like(weight)
    of_text = text.new_zeros(len(sizes), text.shape[1]).index_add_(0, number, text)
    of_image = torch.zeros_like(of_text).index_add_(0, number[own], image)
    to_rows = (of_text * weight[:, None])[number[own]]
    to_columns = (of_image * weight[:, None])[number]
    num = sizes[number[own]].sum().to(text)
    return PositiveSums(num, (image * to_rows).sum(), to_rows, slice(0, len(text)), to_columns)


def numbered_groups(groups: Int64[Tensor, " N"]) -> tuple[Int64[Tensor, " N"], Int64[Tensor, " N"]]:
    """Number groups from 0 in ascending order.

    Unlike ``torch.unique`` the result has a shape that is known beforehand, so that a GPU need not
    be waited for.

    Args:
        groups: Any ids.

    Returns:
        The number of each element's group, and the size of each group; 0 for numbers that no
        group has.

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
    """fp32 for half precision, else the precision of the values."""
    return torch.promote_types(values.dtype, torch.float32)


PairGradients = tuple[Tensor | None, Tensor | None, Tensor | None, Tensor | None, Tensor | None]
"""Gradients in the order of :attr:`PairInputs.differentiable`."""


def pair_gradients(
    inputs: PairInputs,
    columns: Columns,
    to_rows: Float[Tensor, "R D"] | None,
    to_columns: Float[Tensor, "M D"] | None,
    to_scale: Float[Tensor, ""] | None,
) -> PairGradients:
    """Hand what was found for rows and columns back to the inputs, over ranks where needed.

    Args:
        inputs: Of this rank.
        columns: Of all ranks.
        to_rows: Gradient of this rank's rows, or None.
        to_columns: This rank's part of the gradient of all columns, or None.
        to_scale: This rank's part of the gradient of the scale, or None.
    """
    image = negative_image = text = negative_text = None
    if to_rows is not None:
        image = to_rows[: len(inputs.image)]
        negative_image = to_rows[len(inputs.image) :]
    if to_columns is not None:
        text, negative_text = columns.to_owners(to_columns)
    return image, text, to_scale, negative_image, negative_text


def _stack(values: Tensor, more: Tensor | None) -> Tensor:
    stacked = values.detach() if more is None else torch.cat([values.detach(), more.detach()])
    return stacked.to(accumulation_dtype(stacked))
