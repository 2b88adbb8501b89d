"""Terms over the pairs of all ranks, from pairs that may bring more than the public functions take.

The functions of ``functional`` describe the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.losses.kernels.attach import attach_gradients, outside_compiled_graph, without_autograd
from clipkit.losses.kernels.divergence import divergence_and_gradients
from clipkit.losses.kernels.global_softmax import compare_with_others, global_softmax_and_gradients
from clipkit.losses.kernels.pairs import PairGradients, Pairs, gather_columns
from clipkit.losses.kernels.products import Precision, choose_products
from clipkit.losses.kernels.sigmoid import sigmoid_and_gradients
from clipkit.losses.kernels.softmax import softmax_and_gradients
from clipkit.losses.kernels.text_exchange import LateText
from clipkit.losses.term import Term

Update = Callable[[Float[Tensor, "2 N"], Sequence[int]], Float[Tensor, "2 N"]]
"""Maps log g and the number of pairs of each rank to log u; see ``global_contrastive_loss``."""


@outside_compiled_graph
def softmax_term(pairs: Pairs, tile_size: int | None, precision: Precision) -> Term:
    """Compute ``contrastive_loss``."""
    products, needs = choose_products(precision, pairs.image.device), pairs.needs
    with without_autograd(pairs.image.device), products.switched():
        columns = gather_columns(pairs, products)
        value, gradients = softmax_and_gradients(pairs, columns, tile_size, products, needs)
    return _term(value, gradients, pairs.differentiable, columns.num_pairs)


@outside_compiled_graph
def sigmoid_term(
    pairs: Pairs, logit_bias: Float[Tensor, ""], tile_size: int | None, precision: Precision
) -> Term:
    """Compute ``sigmoid_loss``."""
    products, needs = choose_products(precision, pairs.image.device), pairs.needs
    with without_autograd(pairs.image.device), products.switched():
        columns = gather_columns(pairs, products)
        value, gradients = sigmoid_and_gradients(
            pairs, columns, logit_bias, tile_size, products, needs
        )
    return _term(value, gradients, (*pairs.differentiable, logit_bias), columns.num_pairs)


@outside_compiled_graph
def global_term(pairs: Pairs, update: Update | None, epsilon: float, tile_size: int | None) -> Term:
    """Compute ``global_contrastive_loss``."""
    needs = pairs.needs
    with without_autograd(pairs.image.device):
        columns = gather_columns(pairs)
        if columns.num_pairs > 1:
            comparison = compare_with_others(pairs, columns, tile_size)
            averages = comparison.log_means
            if update is not None:
                averages = update(averages, columns.pair_sizes)
            floor = torch.full_like(averages, math.log(epsilon))
            averages = torch.logaddexp(averages, floor)
            value, gradients = global_softmax_and_gradients(columns, comparison, averages, needs)
        else:  # the last batch of an epoch may be a single pair, which has no negatives
            value, gradients = columns.values.new_zeros(()), pairs.zeros()
    return _term(value, gradients, pairs.differentiable, columns.num_pairs)


@outside_compiled_graph
def similarity_term(student: Pairs, teacher: Pairs, tile_size: int | None) -> Term:
    """Compute ``similarity_distillation_loss``, without negatives of the student."""
    student = student.without_negatives()
    needs = student.needs
    with without_autograd(student.image.device):
        value, gradients, num_pairs = divergence_and_gradients(student, teacher, tile_size, needs)
    return _term(value, gradients, student.differentiable, num_pairs)


def _term(
    value: Float[Tensor, ""],
    gradients: PairGradients,
    inputs: tuple[Tensor | None, ...],
    num_samples: int,
) -> Term:
    """Attach the gradients; those that arrive late belong to an input of their own."""
    late = tuple(
        gradient if isinstance(gradient, LateText) else (given, gradient)
        for given, gradient in zip(inputs, gradients, strict=True)
    )
    count = torch.full((), float(num_samples), device=value.device)
    attached = attach_gradients(
        value, tuple(gradient for _, gradient in late), tuple(given for given, _ in late)
    )
    return Term(attached, count)
