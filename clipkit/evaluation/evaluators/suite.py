"""Several evaluators as one evaluator."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import final

from clipkit.errors import ConfigError
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.models import DualEncoder


@final
class EvaluationSuite(Evaluator):
    """Evaluators that run one after another; an error in one of them ends the run.

    Args:
        evaluators: Evaluators by name; a name prefixes its metrics. The primary metric is that of
            the first one.

    Raises:
        ConfigError: If there are none.

    Examples:
        >>> suite = EvaluationSuite({"squares": Retrieval("data/val")})
        >>> suite.run(encoder)
        {'squares/image_to_text/recall_at_1': ..., ...}
    """

    def __init__(self, evaluators: Mapping[str, Evaluator]) -> None:
        if not evaluators:
            raise ConfigError("evaluators: expected at least one, got none")
        self.evaluators = dict(evaluators)
        name, first = next(iter(self.evaluators.items()))
        self.primary_metric = f"{name}/{first.primary_metric}" if first.primary_metric else ""
        self.greater_is_better = first.greater_is_better

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return all metrics in one flat dict, ``NAME/METRIC``."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics and outcomes of all evaluators, each name after ``NAME/``."""
        return joined({name: e.evaluate(encoder) for name, e in self.evaluators.items()})


def joined(by_name: Mapping[str, Evaluation]) -> Evaluation:
    """Return the results of several evaluators as one, each name after ``NAME/``."""
    return Evaluation(
        flat_metrics({name: evaluation.metrics for name, evaluation in by_name.items()}),
        tuple(
            replace(part, prefix=f"{name}/{part.prefix}")
            for name, evaluation in by_name.items()
            for part in evaluation.outcomes
        ),
        flat_metrics({name: evaluation.details for name, evaluation in by_name.items()}),
    )


def flat_metrics(by_name: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of several evaluators in one dict, ``NAME/METRIC``."""
    return {f"{name}/{k}": value for name, values in by_name.items() for k, value in values.items()}
