"""The sigmoid contrastive loss, exact over all ranks, in memory linear in the batch."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.distributed.collectives import sum_over_ranks, world_size
from clipkit.errors import ConfigError
from clipkit.losses.contrastive import checked_tile
from clipkit.losses.kernels.attach import attach_gradients, outside_compiled_graph
from clipkit.losses.kernels.pairs import (
    Columns,
    PairGradients,
    PairInputs,
    PositiveSums,
    ScaledRows,
    gather_columns,
    pair_gradients,
    pair_inputs,
    positive_sums,
    scaled_rows,
)
from clipkit.losses.kernels.products import (
    Precision,
    Products,
    checked_precision,
    choose_products,
)
from clipkit.losses.kernels.tiled import SigmoidSums, choose_tile, sigmoid_sums
from clipkit.losses.term import LossTerm, Term, count
from clipkit.types import Batch, Embeddings


@final
class SigmoidLoss(LossTerm):
    """Each picture says yes or no to each caption of all ranks.

    SigLIP, Zhai et al. 2023, arXiv:2303.15343. The value is
    :func:`~clipkit.losses.functional.sigmoid_contrastive_loss` of the joined batch. Groups, masks
    and negatives as in :class:`~clipkit.losses.ContrastiveLoss`. Start the encoder with a scale of
    10 and a bias of -10, as the paper does.

    Args:
        tile_size: Rows and columns of the similarities that are held at a time; None chooses.
        precision: Precision of the similarities' operands; sums are always fp32. "auto" is TF32 on
            a GPU in a run of mixed precision or where torch allows TF32, else fp32.

    Raises:
        ConfigError: If ``tile_size`` is not positive, ``precision`` is unknown, or the encoder
            has no logit_bias.

    Examples:
        >>> same = torch.eye(2)
        >>> loss = SigmoidLoss()
        >>> loss(Embeddings(same, same, torch.tensor(20.0), torch.tensor(-10.0))).item() < 1e-3
        True
    """

    def __init__(self, tile_size: int | None = None, precision: Precision = "auto") -> None:
        super().__init__()
        self.tile_size = checked_tile(tile_size)
        self.precision = checked_precision(precision)

    def check(self, embeddings: Embeddings) -> None:
        """Refuse an encoder without logit_bias."""
        _bias(embeddings)

    def term(self, embeddings: Embeddings, batch: Batch | None) -> Term:
        """See :class:`SigmoidLoss`; its samples are the pairs of all ranks."""
        bias = _bias(embeddings)
        inputs = pair_inputs(embeddings, batch)
        return sigmoid_term(inputs, bias, self.tile_size, self.precision)


def _bias(embeddings: Embeddings) -> Float[Tensor, ""]:
    if embeddings.logit_bias is None:
        raise ConfigError(
            "logit_bias: SigmoidLoss needs an encoder with a learnable logit_bias, got None; "
            "build the encoder with logit_scale 10 and logit_bias -10"
        )
    return embeddings.logit_bias


@outside_compiled_graph
def sigmoid_term(
    inputs: PairInputs,
    bias: Float[Tensor, ""],
    tile_size: int | None,
    precision: Precision = "auto",
) -> Term:
    """The loss of :class:`SigmoidLoss` on inputs that are already selected.

    Args:
        inputs: Pairs of this rank.
        bias: Added to the scaled similarities.
        tile_size: Width of a tile, or None.
        precision: As for :class:`SigmoidLoss`.
    """
    device = inputs.image.device
    products = choose_products(precision, device)
    needs = inputs.needs_rows, inputs.needs_columns
    with torch.no_grad(), torch.autocast(device.type, enabled=False), products.switched():
        columns = gather_columns(inputs)
        columns = replace(columns, values=products.rounded(columns.values))
        rows = scaled_rows(inputs, products)
        sums = _negative_sums(inputs, rows, columns, bias, tile_size, products, needs)
        value, to_bias, gradients = _assemble(inputs, rows, columns, bias, sums)
    return Term(
        attach_gradients(value, (*gradients, to_bias), (*inputs.differentiable, bias)),
        count(columns.num_pairs, value),
    )


def _negative_sums(
    inputs: PairInputs,
    given: ScaledRows,
    columns: Columns,
    bias: Tensor,
    tile_size: int | None,
    products: Products,
    needs: tuple[bool, bool],
) -> SigmoidSums:
    """Every combination as if it did not match; nobody knows of two negatives whether they do."""
    num_own, scaled = len(inputs.image), given.scaled
    bias = bias.to(scaled.dtype)
    tile = choose_tile(tile_size, scaled)
    apart = None if products.is_exact else columns.own
    sums = sigmoid_sums(scaled[:num_own], columns.values, bias, tile, *needs, products, apart)
    if len(scaled) == num_own:
        return sums
    pairs = columns.values[: columns.num_pairs]
    return sums.stacked(sigmoid_sums(scaled[num_own:], pairs, bias, tile, *needs, products))


def _assemble(
    inputs: PairInputs, given: ScaledRows, columns: Columns, bias: Tensor, sums: SigmoidSums
) -> tuple[Float[Tensor, ""], Float[Tensor, ""], PairGradients]:
    rows, _, scale = given
    num_own, bias = len(inputs.image), bias.to(rows.dtype)
    matches: PositiveSums = positive_sums(rows[:num_own], columns, inputs.groups, average=False)
    # -log sigmoid(x) = softplus(x) - x turns a combination from "no" into "yes".
    own_sum = sums.loss - scale * matches.value - bias * matches.num
    value = sum_over_ranks(own_sum) / max(columns.num_pairs, 1)
    factor = world_size() / max(columns.num_pairs, 1)
    to_bias = factor * (sums.weight - matches.num)
    to_rows, to_columns, to_scale = sums.to_rows, sums.to_columns, None
    if to_rows is not None:
        to_rows[:num_own] -= matches.to_rows
        to_scale = factor * (to_rows * rows).sum()
        to_rows *= factor * scale
    if to_columns is not None:
        to_columns[matches.where] -= scale * matches.to_columns
        to_columns *= factor
    return value, to_bias, pair_gradients(inputs, columns, to_rows, to_columns, to_scale)
