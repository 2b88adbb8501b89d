"""The softmax contrastive loss, exact over all ranks, in memory linear in the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.distributed.collectives import (
    logsumexp_over_ranks,
    sum_over_ranks,
    world_size,
)
from clipkit.errors import ConfigError
from clipkit.losses.kernels.attach import attach_gradients, outside_compiled_graph
from clipkit.losses.kernels.pairs import (
    Columns,
    PairGradients,
    PairInputs,
    gather_columns,
    pair_gradients,
    pair_inputs,
    positive_sums,
    scaled_rows,
    singles_to_groups,
)
from clipkit.losses.kernels.products import (
    Precision,
    Products,
    checked_precision,
    choose_products,
)
from clipkit.losses.kernels.tiled import SoftmaxTiles, choose_softmax_tile
from clipkit.losses.term import LossTerm, Term, count
from clipkit.types import Batch, Embeddings


@final
class ContrastiveLoss(LossTerm):
    """Each picture picks its caption among those of all ranks, and each caption its picture.

    The value is :func:`~clipkit.losses.functional.softmax_contrastive_loss` of the joined batch.
    Batches may be uneven over the ranks. ``batch.groups`` makes several captions right answers,
    ``batch.pair_mask`` leaves pairs out, ``embeddings.negative_text`` and ``negative_image`` are
    further wrong answers (Yuksekgonul et al. 2023, arXiv:2210.01936).

    Args:
        tile_size: Rows and columns of the similarities that are held at a time; None chooses.
        precision: Precision of the similarities' operands; sums are always fp32. "auto" is TF32 on
            a GPU in a run of mixed precision or where torch allows TF32, else fp32.

    Raises:
        ConfigError: If ``tile_size`` is not positive, ``precision`` is unknown, or the encoder
            has a logit_bias, which a softmax cannot see.

    Examples:
        >>> same = torch.eye(4)
        >>> loss = ContrastiveLoss()
        >>> loss(Embeddings(same, same, torch.tensor(100.0))).item()
        0.0
    """

    def __init__(self, tile_size: int | None = None, precision: Precision = "auto") -> None:
        super().__init__()
        self.tile_size = checked_tile(tile_size)
        self.precision = checked_precision(precision)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse a logit_bias."""
        refuse_bias(embeddings)

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """See :class:`ContrastiveLoss`; its samples are the pairs of all ranks."""
        self.check(embeddings)
        return softmax_term(pair_inputs(embeddings, batch), self.tile_size, self.precision)


@final
class LabelAwareContrastiveLoss(LossTerm):
    """UniCL: all pairs of one class are right answers (Yang et al. 2022, arXiv:2204.03610).

    A pair without a label matches itself alone.

    Args:
        tile_size: Rows and columns of the similarities that are held at a time; None chooses.
        precision: Precision of the similarities' operands; sums are always fp32. "auto" is TF32 on
            a GPU in a run of mixed precision or where torch allows TF32, else fp32.

    Raises:
        ConfigError: As :class:`ContrastiveLoss`, or if it is called without a batch.
    """

    def __init__(self, tile_size: int | None = None, precision: Precision = "auto") -> None:
        super().__init__()
        self.tile_size = checked_tile(tile_size)
        self.precision = checked_precision(precision)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse a logit_bias."""
        refuse_bias(embeddings)

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """See :class:`LabelAwareContrastiveLoss`; its samples are the pairs of all ranks."""
        self.check(embeddings)
        if batch is None:
            raise ConfigError("LabelAwareContrastiveLoss: expected a batch with labels, got None")
        by_label = replace(batch, groups=singles_to_groups(batch.labels))
        return softmax_term(pair_inputs(embeddings, by_label), self.tile_size, self.precision)


def checked_tile(tile_size: int | None) -> int | None:
    """``tile_size`` itself, or an error that names it."""
    if tile_size is not None and tile_size < 1:
        raise ConfigError(f"tile_size: expected a positive number or null, got {tile_size}")
    return tile_size


def refuse_bias(embeddings: Embeddings) -> None:
    """A softmax is blind to a bias common to all logits: the parameter would never learn."""
    if embeddings.logit_bias is not None:
        raise ConfigError(
            "logit_bias: a softmax contrastive loss cannot use the encoder's logit_bias; "
            "build the encoder with logit_bias null, or choose SigmoidLoss"
        )


@outside_compiled_graph
def softmax_term(inputs: PairInputs, tile_size: int | None, precision: Precision = "auto") -> Term:
    """The loss of :class:`ContrastiveLoss` on inputs that are already selected.

    Args:
        inputs: Pairs of this rank.
        tile_size: Width of a tile, or None.
        precision: As for :class:`ContrastiveLoss`.
    """
    device = inputs.image.device
    products = choose_products(precision, device)
    needs = inputs.needs_rows, inputs.needs_columns
    with torch.no_grad(), torch.autocast(device.type, enabled=False), products.switched():
        columns = gather_columns(inputs)
        columns = replace(columns, values=products.rounded(columns.values))
        value, gradients = _value_and_gradients(inputs, columns, tile_size, products, needs)
    return Term(
        attach_gradients(value, gradients, inputs.differentiable),
        count(columns.num_pairs, value),
    )


def _value_and_gradients(
    inputs: PairInputs,
    columns: Columns,
    tile_size: int | None,
    products: Products,
    needs: tuple[bool, bool],
) -> tuple[Float[Tensor, ""], PairGradients]:
    num_pairs, num_own = columns.num_pairs, len(inputs.image)
    rows, scaled, scale = scaled_rows(inputs, products)
    tile = choose_softmax_tile(tile_size, rows, columns.values)
    # rows of hard negatives have no partner
    apart = None if products.is_exact or len(rows) > num_own else columns.own
    tiles = SoftmaxTiles(scaled, columns.values, tile, products=products, apart=apart)
    row, column = tiles.logsumexp()
    column = logsumexp_over_ranks(column)
    matches = positive_sums(rows[:num_own], columns, inputs.groups, average=True)
    own_sum = row[:num_own].sum() - 2 * scale * matches.value
    factor = 1 / (2 * max(num_pairs, 1))
    value = factor * (sum_over_ranks(own_sum) + column[:num_pairs].sum())
    # Negatives compete, but nobody asks them to pick: exp(logits - inf) = 0 in the second pass.
    row[num_own:], column[num_pairs:] = torch.inf, torch.inf
    to_rows, to_columns = tiles.weighted_sums(row, column, *needs)
    factor *= world_size()
    to_scale = None
    if to_rows is not None:
        to_rows[:num_own] -= 2 * matches.to_rows
        to_scale = factor * (to_rows * rows).sum()
        to_rows *= factor * scale
    if to_columns is not None:
        to_columns[matches.where] -= 2 * scale * matches.to_columns
        to_columns *= factor
    return value, pair_gradients(inputs, columns, to_rows, to_columns, to_scale)
