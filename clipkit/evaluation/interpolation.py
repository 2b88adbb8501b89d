"""Measure models between one before and one after fine-tuning (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from clipkit.errors import check_at_least
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.suite import EvaluationSuite
from clipkit.models import DualEncoder, interpolate

_DRAWN: Final = ("recall_at_1", "top1")


@dataclass(frozen=True, slots=True)
class InterpolationPoint:
    """Metrics of one mixture.

    Args:
        alpha: Weight of the model after fine-tuning, from 0 to 1.
        metrics: Value of each metric by ``NAME/METRIC``, where NAME is that of the evaluator.
    """

    alpha: float
    metrics: dict[str, float]

    def drawn(self) -> dict[str, float]:
        """Return the metrics that the chart shows: recall at 1 and top-1 accuracy."""
        return {k: v for k, v in self.metrics.items() if k.rpartition("/")[2] in _DRAWN}


def interpolation_curve(
    start: DualEncoder,
    end: DualEncoder,
    evaluators: Mapping[str, Evaluator],
    num_points: int = 11,
    on_point: Callable[[InterpolationPoint], None] | None = None,
) -> list[InterpolationPoint]:
    """Measure mixtures of two models, ``(1 - alpha) * start + alpha * end``.

    Args:
        start: Model before fine-tuning.
        end: Model after fine-tuning, of the same architecture.
        evaluators: Evaluators by name.
        num_points: Number of mixtures; alpha is evenly spaced from 0 to 1.
        on_point: Called with each point once it is measured; None for no call.

    Returns:
        The points, by ascending alpha.

    Raises:
        CheckpointError: If the models differ in architecture, or name a class differently.
        ConfigError: If ``num_points`` is less than 2, or there are no evaluators.

    Examples:
        >>> curve = interpolation_curve(encoder, encoder, {"val": Retrieval("data/val")}, 3)
        >>> [point.alpha for point in curve]
        [0.0, 0.5, 1.0]
    """
    check_at_least("points", num_points, 2)
    suite = EvaluationSuite(evaluators)
    points = []
    for alpha in (number / (num_points - 1) for number in range(num_points)):
        points.append(InterpolationPoint(alpha, suite.run(interpolate(start, end, alpha))))
        if on_point is not None:
            on_point(points[-1])
    return points
