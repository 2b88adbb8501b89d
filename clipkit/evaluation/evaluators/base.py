"""What an evaluator is: it knows an encoder and its own data, and no trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod

from clipkit.models import DualEncoder


class Evaluator(ABC):
    """Measures an encoder on data of its own.

    Attributes:
        class_names: Names of the data's classes, in the order of their numbers; none where the
            evaluator measures no classes, or the data do not name them.
    """

    class_names: tuple[str, ...] = ()

    @abstractmethod
    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Measure.

        Args:
            encoder: The model, on the device where it is to run. Its training mode and its
                gradients are as before afterwards. Over several ranks, every rank calls this with
                the same encoder and gets the same numbers.

        Returns:
            Metric keys and values.
        """
