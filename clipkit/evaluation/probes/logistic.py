"""Logistic regression on frozen embeddings, and the choice of its penalty."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import MetricError
from clipkit.metrics.per_class import mean_average_precision
from clipkit.types import IGNORE_LABEL

L2_GRID: Final = tuple(10.0 ** (-exponent / 2) for exponent in range(13))
"""From strong (1) to weak (1e-6), two per decade; for embeddings of unit norm."""

_MAX_ITERATIONS: Final = 300
_DAMPING: Final = 0.03


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
    """Minimise ``loss_of(scores) + l2/2 * ||weight||²``.

    L-BFGS works on centred and nearly whitened features: embeddings share a large mean and have
    most of their variance in few directions, which costs it hundreds of iterations. The objective
    is the same, so the optimum is, too.
    """
    inputs, mean = _centred(features)
    factor = _curvature_factor(inputs, num_classes, l2)
    inputs = torch.linalg.solve_triangular(factor.T, inputs, upper=True, left=False)
    both = inputs.new_zeros(num_classes, inputs.shape[1] + 1)
    if start is not None:
        both[:, :-1] = start.weight @ factor
        both[:, -1] = start.bias + start.weight @ mean
    both.requires_grad_()
    optimizer = torch.optim.LBFGS(
        [both],
        max_iter=_MAX_ITERATIONS,
        tolerance_grad=1e-7,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    def weight_of(whitened: Float[Tensor, "C D"]) -> Float[Tensor, "C D"]:
        weight: Tensor = torch.linalg.solve_triangular(factor, whitened, upper=False, left=False)
        return weight

    def closure() -> float:
        with torch.enable_grad():
            scores = inputs @ both[:, :-1].T + both[:, -1]
            loss = loss_of(scores) + 0.5 * l2 * weight_of(both[:, :-1]).square().sum()
            (both.grad,) = torch.autograd.grad(loss, both)
        return float(loss.detach())

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    weight, bias = weight_of(both.detach()[:, :-1]), both.detach()[:, -1]
    return LinearClassifier(weight, bias - weight @ mean)


def _centred(features: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, " D"]]:
    """Return the features without their mean, and the mean.

    Raises:
        MetricError: If a value is NaN or infinite.
    """
    inputs = features.double()
    if broken := int((~inputs.isfinite()).any(1).sum()):
        raise MetricError(
            f"probe: expected finite embeddings, got NaN or infinity for {broken} of {len(inputs)} "
            f"samples; look for overflow in the model, or embed with --precision fp32"
        )
    mean = inputs.mean(0)
    return inputs - mean, mean


def _curvature_factor(
    centred: Float[Tensor, "N D"], num_classes: int, l2: float
) -> Float[Tensor, "D D"]:
    """Return the Cholesky factor of about the objective's curvature where all scores are zero.

    A share of the variance is added to all directions: where the classes are told apart well, the
    curvature is lower than this one in all directions but those of the penalty.
    """
    covariance = centred.T @ centred / (len(centred) * max(num_classes, 4))
    damping = l2 + _DAMPING * covariance.diagonal().sum()
    curvature = covariance + damping * torch.eye(len(covariance)).to(covariance)
    factor: Tensor = torch.linalg.cholesky(curvature)
    return factor


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
