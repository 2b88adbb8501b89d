"""Logistic regression on frozen embeddings, and the choice of its penalty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.metrics.per_class import mean_average_precision
from clipkit.types import IGNORE_LABEL

L2_GRID: Final = tuple(10.0 ** (-exponent / 2) for exponent in range(13))
"""From strong (1) to weak (1e-6), two per decade; for embeddings of unit norm."""

_MAX_ITERATIONS: Final = 300


@dataclass(frozen=True, slots=True)
class LinearClassifier:
    """Linear classifier in float64: scores are ``features @ weight.T + bias``."""

    weight: Float[Tensor, "C D"]
    bias: Float[Tensor, " C"]

    def __call__(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N C"]:
        """Return the scores of every class for every row."""
        return features.double() @ self.weight.T + self.bias


def fit_logistic(
    features: Float[Tensor, "N D"],
    labels: Int64[Tensor, " N"],
    num_classes: int,
    l2: float,
    start: LinearClassifier | None = None,
) -> LinearClassifier:
    """Fit a multinomial logistic regression by L-BFGS: mean cross-entropy + l2/2 * ||weight||².

    The problem is convex and solved in float64 from a fixed start, so the result depends neither on
    a seed nor on the order of the rows.
    """
    return _fit(features, num_classes, l2, start, lambda scores: F.cross_entropy(scores, labels))


def fit_binary(
    features: Float[Tensor, "N D"],
    targets: Int64[Tensor, "N C"],
    l2: float,
    start: LinearClassifier | None = None,
) -> LinearClassifier:
    """Fit one binary logistic regression per class by L-BFGS, as ``fit_logistic``.

    The objective is the sum over the classes of: mean binary cross-entropy over the rows of which
    the class is known (not ``IGNORE_LABEL``) + l2/2 * ||row||². The classes do not depend on one
    another.
    """
    known = targets != IGNORE_LABEL
    wanted = (targets == 1).double()
    weights = known / known.sum(0).clamp(min=1)

    def loss(scores: Float[Tensor, "N C"]) -> Tensor:
        return F.binary_cross_entropy_with_logits(scores, wanted, weights, reduction="sum")

    return _fit(features, targets.shape[1], l2, start, loss)


def _fit(
    features: Float[Tensor, "N D"],
    num_classes: int,
    l2: float,
    start: LinearClassifier | None,
    loss_of: Callable[[Float[Tensor, "N C"]], Tensor],
) -> LinearClassifier:
    inputs = features.double()
    initial = torch.zeros(
        num_classes, inputs.shape[1] + 1, dtype=inputs.dtype, device=inputs.device
    )
    if start is not None:
        initial = torch.cat([start.weight, start.bias[:, None]], dim=1)
    both = initial.clone().requires_grad_()
    optimizer = torch.optim.LBFGS(
        [both],
        max_iter=_MAX_ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def closure() -> float:
        with torch.enable_grad():
            weight, bias = both[:, :-1], both[:, -1]
            loss = loss_of(inputs @ weight.T + bias) + 0.5 * l2 * weight.square().sum()
            (both.grad,) = torch.autograd.grad(loss, both)
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    fitted = both.detach()
    return LinearClassifier(fitted[:, :-1], fitted[:, -1])


def choose_l2(
    train: tuple[Float[Tensor, "N D"], Int64[Tensor, " N"]],
    validation: tuple[Float[Tensor, "validation D"], Int64[Tensor, " validation"]],
    num_classes: int,
    grid: Sequence[float] = L2_GRID,
) -> float:
    """Return the penalty with the best validation accuracy, the strongest one of equals."""
    features, labels = validation

    def fit(l2: float, start: LinearClassifier | None) -> LinearClassifier:
        return fit_logistic(*train, num_classes, l2, start)

    def accuracy(classifier: LinearClassifier) -> float:
        return float((classifier(features).argmax(1) == labels).double().mean())

    return _best(grid, fit, accuracy)


def choose_binary_l2(
    train: tuple[Float[Tensor, "N D"], Int64[Tensor, "N C"]],
    validation: tuple[Float[Tensor, "validation D"], Int64[Tensor, "validation C"]],
    grid: Sequence[float] = L2_GRID,
) -> float:
    """Return the penalty with the best mean average precision, the strongest one of equals."""
    features, targets = validation

    def fit(l2: float, start: LinearClassifier | None) -> LinearClassifier:
        return fit_binary(*train, l2, start)

    def precision(classifier: LinearClassifier) -> float:
        return mean_average_precision(classifier(features), targets)

    return _best(grid, fit, precision)


def _best(
    grid: Sequence[float],
    fit: Callable[[float, LinearClassifier | None], LinearClassifier],
    quality: Callable[[LinearClassifier], float],
) -> float:
    """Fit with each penalty, from the classifier of the one before, and return the best."""
    best, chosen = -1.0, grid[0]
    classifier: LinearClassifier | None = None
    for l2 in grid:
        classifier = fit(l2, classifier)
        if (value := quality(classifier)) > best:
            best, chosen = value, l2
    return chosen
