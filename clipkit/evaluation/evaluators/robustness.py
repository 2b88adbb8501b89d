"""Accuracy of a classifier on corrupted images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float64
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.evaluation.corruptions.images import CorruptedImages
from clipkit.evaluation.corruptions.kinds import CORRUPTIONS, STRENGTHS, check_corruption
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.zero_shot import Predictions, ZeroShotClassification
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes, distinct_keys
from clipkit.metrics.functional import label_ranks
from clipkit.models import DualEncoder


@final
class CorruptionRobustness(Evaluator):
    """Accuracy of a classifier under common corruptions, which are made when images are read.

    The corruptions are those of Hendrycks & Dietterich 2019; see ``CORRUPTIONS``. Every image is
    classified once per corruption and strength, and once as it is.

    Args:
        classifier: Evaluator whose predictions are measured.
        corruptions: Names of the corruptions; all twelve by default.
        strengths: Strengths, from 1 to 5.

    Raises:
        ConfigError: If a corruption or strength is unknown, or there are none.

    Examples:
        >>> classifier = ZeroShotClassification("data/val")
        >>> CorruptionRobustness(classifier, ["fog"], [5]).run(encoder)
        {'clean/top1': ..., 'corrupted/top1': ..., 'mean_corruption_error': ..., ...}
    """

    primary_metric = "corrupted/top1"

    def __init__(
        self,
        classifier: ZeroShotClassification | LabelHeadClassification,
        corruptions: Sequence[str] = tuple(CORRUPTIONS),
        strengths: Sequence[int] = STRENGTHS,
    ) -> None:
        self.classifier = classifier
        self.class_names = classifier.class_names
        self.templates = classifier.templates
        self.data = classifier.data
        kinds, chosen = dict.fromkeys(corruptions), sorted(set(strengths))
        self.cases = [(kind, strength) for kind in kinds for strength in chosen]
        if not self.cases:
            raise ConfigError("corruptions, strengths: expected at least one of each, got none")
        for case in self.cases:
            check_corruption(*case)

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return top-1 without corruption, with each of them, and the mean corruption error.

        ``KIND/top1`` is the mean over the strengths, ``strength_N/top1`` the mean over the kinds,
        ``corrupted/top1`` the mean over both, and ``mean_corruption_error`` is 1 minus it. It is
        not divided by the errors of AlexNet, which are known for ImageNet only.
        """
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics, and for each image the share of corruptions that it withstands."""
        predict = self.classifier.predictor(encoder)
        clean = predict(self.classifier.data)
        right = {
            (kind, n): _hits(predict(CorruptedImages(self.classifier.data, kind, n)))
            for kind, n in self.cases
        }
        kinds, strengths = (dict.fromkeys(values) for values in zip(*right, strict=True))
        corrupted = _mean(list(right.values()))
        columns = {
            "clean/top1": _hits(clean),
            "corrupted/top1": corrupted,
            "mean_corruption_error": 1 - corrupted,
        }
        for kind in kinds:
            columns[f"{kind}/top1"] = _mean([hits for (k, _), hits in right.items() if k == kind])
        for strength in strengths:
            of_strength = [hits for (_, n), hits in right.items() if n == strength]
            columns[f"strength_{strength}/top1"] = _mean(of_strength)
        columns |= {f"{kind}_{n}/top1": hits for (kind, n), hits in right.items()}
        keys = distinct_keys(clean.keys)
        outcomes = Outcomes("means", keys, keys, columns)
        return Evaluation(outcome_metrics(outcomes), (outcomes,))


def _hits(predictions: Predictions) -> Float64[Tensor, " N"]:
    return (label_ranks(predictions.scores, predictions.labels) == 0).double()


def _mean(columns: Sequence[Float64[Tensor, " N"]]) -> Float64[Tensor, " N"]:
    return torch.stack(list(columns)).mean(0)
