"""Precision, recall, F1 and average precision of each class, and the confusion matrix."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.joint.classification import JointClassification
from clipkit.evaluation.evaluators.joint.question_answering import QuestionAnswering
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.zero_shot import ZeroShotClassification
from clipkit.evaluation.outcomes.outcomes import Evaluation
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
    """Results of a classifier on a data set, class by class.

    Args:
        class_names: C distinct names; the class numbers where there are no names.
        of_classifier: Metrics of the classifier, and the outcome of each image.
        scores: Precision, recall, F1 and support of each class.
        average_precision: Average precision of each class against all others; NaN if the class does
            not occur.
        confusion: Number of images of each true class (row) and predicted class (column).
    """

    class_names: tuple[str, ...]
    of_classifier: Evaluation
    scores: ClassScores
    average_precision: Float[Tensor, " C"]
    confusion: Int64[Tensor, "C C"]

    def metrics(self) -> dict[str, float]:
        """Return all metrics in one flat dict, without classes that do not occur."""
        occurs = self.scores.support > 0
        values = {
            **self.of_classifier.metrics,
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

    def evaluation(self) -> Evaluation:
        """Return all metrics with the outcome of each image."""
        return replace(self.of_classifier, metrics=self.metrics())


Classifying = (
    ZeroShotClassification | LabelHeadClassification | JointClassification | QuestionAnswering
)
"""Evaluators whose predictions can be measured class by class."""


@final
class PerClass(Evaluator):
    """Metrics of every class, and their means, for zero-shot classes, a label head, or answers.

    The means weight all classes that occur equally. The average precision of a class ranks all
    images by their score for it.

    Args:
        classifier: Evaluator whose predictions are measured.

    Examples:
        >>> PerClass(ZeroShotClassification("data/val")).run(encoder)
        {'top1': ..., 'macro_f1': ..., 'recall/red': ..., ...}
    """

    primary_metric = "macro_f1"

    def __init__(self, classifier: Classifying) -> None:
        self.classifier = classifier

    def measure(self, encoder: DualEncoder) -> ClassReport:
        """Measure the classifier, class by class.

        Raises:
            ClipkitError: If the classifier cannot be run on the data.
        """
        predictions, evaluation = self.classifier.measure(encoder)
        scores, labels = predictions.scores, predictions.labels
        num_classes = scores.shape[1]
        confusion = confusion_matrix(chosen_classes(scores, labels), labels, num_classes)
        return ClassReport(
            class_names=predictions.class_names,
            of_classifier=evaluation,
            scores=class_scores(confusion),
            average_precision=average_precisions(scores, F.one_hot(labels, num_classes)),
            confusion=confusion,
        )

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return ``ClassReport.metrics``."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return ``ClassReport.metrics`` and the outcome of each image."""
        return self.measure(encoder).evaluation()
