"""The base class of evaluators, which use an encoder and data, but no trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod

from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.models import DualEncoder


class Evaluator(ABC):
    """Measurement of an encoder on the evaluator's own data (abstract).

    Attributes:
        class_names: Names of the data's classes in the order of their numbers; empty if the
            evaluator measures no classes or the data do not name them.
        primary_metric: Key of the one metric in the result of ``run`` that models are compared by;
            empty if there is none. ``SaveCheckpoint(monitor=NAME)`` watches it, where NAME is the
            evaluator's name in ``ZeroShotEvaluation``.
        greater_is_better: Whether a greater value of ``primary_metric`` is better.
        templates: Sentences that class names are inserted into; empty if the evaluator uses none.
    """

    class_names: tuple[str, ...] = ()
    primary_metric: str = ""
    greater_is_better: bool = True
    templates: tuple[str, ...] = ()

    @abstractmethod
    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Measure an encoder.

        Args:
            encoder: The model, on the device where it is to run. Its training mode and its
                gradients are restored afterwards. With several ranks, every rank calls this method
                with the same encoder and gets the same numbers.

        Returns:
            Value of each metric by its key.
        """

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Measure an encoder, and keep the outcome of each image or query where there is one.

        Args:
            encoder: The model, as for ``run``.

        Returns:
            The metrics of ``run`` and the outcomes that they follow from, which intervals and
            comparisons of models need. This implementation keeps no outcomes.
        """
        return Evaluation(self.run(encoder))
