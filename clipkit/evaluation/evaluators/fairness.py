"""Accuracy and recall of a classifier within groups, such as regions or genders."""

from __future__ import annotations

from collections import Counter
from typing import final

from clipkit.evaluation.datasets.leaks import groups_of
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.zero_shot import ZeroShotClassification
from clipkit.evaluation.outcomes.by_group import by_group_outcomes
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.models import DualEncoder


@final
class GroupFairness(Evaluator):
    """Accuracy and mean recall of every group, of the worst group, and the gap to the best one.

    A group is all images with the same value of an attribute. The mean recall weights the classes
    equally, so that groups with other shares of the classes can be compared.

    Args:
        classifier: Evaluator whose predictions are measured.
        attribute: Field with the group of each image, such as "json:region".

    Examples:
        >>> GroupFairness(ZeroShotClassification("data/val"), "cls").run(encoder)
        {'top1': ..., 'group/0/top1': ..., 'worst_group/top1': ..., 'group_gap/top1': ..., ...}
    """

    primary_metric = "worst_group/top1"

    def __init__(
        self, classifier: ZeroShotClassification | LabelHeadClassification, attribute: str
    ) -> None:
        self.classifier = classifier
        self.class_names = classifier.class_names
        self.templates = classifier.templates
        self.data = classifier.data
        self.attribute = attribute

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the metrics of the classifier, and those of the groups.

        For top-1, top-5 and mean per-class recall: ``group/GROUP/METRIC``, ``worst_group/METRIC``
        and ``group_gap/METRIC``, the difference between the best and the worst group.

        Raises:
            DataError: If an image has no group.
        """
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics, the outcome of each image, and the number of images of each group."""
        predictions, evaluation = self.classifier.measure(encoder)
        attributes = groups_of(self.classifier.data, self.attribute, predictions.keys)
        by_group = by_group_outcomes(evaluation.outcomes[0], attributes)
        counts = sorted(Counter(attributes).items())
        return Evaluation(
            {**evaluation.metrics, **outcome_metrics(by_group)},
            (*evaluation.outcomes, by_group),
            {**evaluation.details, **{f"images/{group}": float(n) for group, n in counts}},
        )
