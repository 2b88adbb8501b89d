"""How each class did: precision, recall, F1, average precision, and what was taken for what."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.zero_shot import ZeroShotClassification
from clipkit.metrics.functional import classification_accuracy
from clipkit.metrics.per_class import (
    ClassScores,
    average_precisions,
    chosen_classes,
    class_scores,
    confusion_matrix,
)
from clipkit.models import DualEncoder


@dataclass(frozen=True, slots=True)
class ClassReport:
    """What a classifier did on a data set.

    Args:
        class_names: C names, no two alike; the numbers where there are no names.
        accuracy: ``top1``, ``top5`` and ``mean_per_class_recall``.
        scores: Of each class.
        average_precision: Of each class against all others; NaN where it does not occur.
        confusion: Row: the true class, column: the class it was taken for.
    """

    class_names: tuple[str, ...]
    accuracy: dict[str, float]
    scores: ClassScores
    average_precision: Float[Tensor, " C"]
    confusion: Int64[Tensor, "C C"]

    def metrics(self) -> dict[str, float]:
        """Everything in one flat dict; classes that do not occur have no entries."""
        occurs = self.scores.support > 0
        values = {
            **self.accuracy,
            **self.scores.macro(),
            "mean_average_precision": float(self.average_precision[occurs].mean()),
        }
        for number in occurs.nonzero().flatten().tolist():
            name = self.class_names[number]
            values[f"precision/{name}"] = float(self.scores.precision[number])
            values[f"recall/{name}"] = float(self.scores.recall[number])
            values[f"f1/{name}"] = float(self.scores.f1[number])
            values[f"average_precision/{name}"] = float(self.average_precision[number])
        return values


@final
class PerClass(Evaluator):
    """Metrics of every class, and their means, of a zero-shot classifier or a label head.

    Means are over the classes that occur, each alike. The average precision of a class ranks all
    pictures by their score for it.

    Args:
        classifier: Whose scores are looked at.

    Examples:
        >>> PerClass(ZeroShotClassification("data/val")).run(encoder)
        {'top1': ..., 'macro_f1': ..., 'recall/red': ..., ...}
    """

    primary_metric = "macro_f1"

    def __init__(self, classifier: ZeroShotClassification | LabelHeadClassification) -> None:
        self.classifier = classifier

    def measure(self, encoder: DualEncoder) -> ClassReport:
        """All that is to be said about the classifier.

        Raises:
            ClipkitError: As the classifier.
        """
        predictions = self.classifier.predict(encoder)
        scores, labels = predictions.scores, predictions.labels
        num_classes = scores.shape[1]
        confusion = confusion_matrix(chosen_classes(scores, labels), labels, num_classes)
        return ClassReport(
            class_names=predictions.class_names,
            accuracy=classification_accuracy(scores, labels),
            scores=class_scores(confusion),
            average_precision=average_precisions(scores, F.one_hot(labels, num_classes)),
            confusion=confusion,
        )

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """See ``ClassReport.metrics``."""
        return self.measure(encoder).metrics()
