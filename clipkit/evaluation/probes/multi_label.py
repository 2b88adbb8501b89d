"""Linear probe for images that may have several classes."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final, final

from jaxtyping import Int64
from torch import Tensor

from clipkit.class_names import listed_names, shown_names
from clipkit.distributed.agreement import same_errors
from clipkit.errors import DataError, check_choice
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_match import ClassMatch
from clipkit.evaluation.evaluators.multi_label_targets import ClassFields, multi_label_targets
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.multi_label import multi_label_outcomes
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.evaluation.probes.hold_out import rows_of_groups
from clipkit.evaluation.probes.logistic import choose_binary_l2, fit_binary
from clipkit.evaluation.probes.splits import EmbeddedSplit, ProbeSplits
from clipkit.metrics.thresholds import THRESHOLDS, fit_thresholds
from clipkit.models import DualEncoder

_LOG: Final = logging.getLogger(__name__)
_Labelled = tuple[EmbeddedSplit, Int64[Tensor, "N C"]]
"""Embeddings, and which classes apply (``IGNORE_LABEL`` where it is unknown)."""


@final
class MultiLabelProbe(Evaluator):
    """Metrics of one logistic regression per class, on frozen embeddings.

    Held-out samples select the penalty, by mean average precision, and the threshold of each class,
    by F1. The classifier is fitted on the other samples of the training split, so that the
    thresholds are those of its own scores.

    Args:
        data: Folder or URL in CLIP_benchmark's layout with splits "train" and "test", or the
            splits. Without a validation split, about a fifth of each class is held out.
        positives: Field of a JSON member that lists the classes of a sample, or "npy"; None for
            "json:labels", or "npy" in CLIP_benchmark's type "multilabel".
        negatives: Field that lists the classes that do not apply, if the others are unknown; None
            if no other class applies.
        thresholds: "per-class" or "global".
        options: Batch size, number of workers, limit, precision, progress bar.

    Raises:
        DataError: If a split is missing.

    Examples:
        >>> splits = ProbeSplits("data", split="val")
        >>> MultiLabelProbe(splits, positives="json:tags").primary_metric
        'mean_average_precision'
    """

    primary_metric = "mean_average_precision"

    def __init__(
        self,
        data: str | Path | ProbeSplits,
        positives: str | None = None,
        negatives: str | None = None,
        thresholds: str = "per-class",
        options: EmbedOptions = EmbedOptions(),
    ) -> None:
        check_choice("thresholds", thresholds, THRESHOLDS)
        self.splits = data if isinstance(data, ProbeSplits) else ProbeSplits(data)
        self.class_names = self.splits.class_names
        self.fields = ClassFields.of(self.splits.test, positives, negatives)
        self.thresholds = thresholds
        self.options = options

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the metrics of ``zero-shot-multi-label``, and the selected penalty ``l2``."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics, the outcome of each test image, and the fitted thresholds.

        Raises:
            DataError: If no class applies to a training or a held-out sample.
        """
        embedded = self.splits.embed(encoder, self.options, require_labels=False)
        with same_errors():
            targets = self._targets({role: len(part.keys) for role, part in embedded.items()})
        parts = {role: (part, targets[role]) for role, part in embedded.items()}
        fitting, comparing = self._divided(parts)
        names = shown_names(self.class_names, fitting[1].shape[1])
        self._report_absent(fitting[1], names)
        device = fitting[0].features.device
        train = fitting[0].features, fitting[1].to(device)
        held = comparing[0].features, comparing[1].to(device)
        l2 = choose_binary_l2(train, held)
        classifier = fit_binary(*train, l2)
        fitted = fit_thresholds(classifier(held[0]).cpu(), comparing[1], self.thresholds)
        test, of_test = parts["test"]
        scores = classifier(test.features).cpu()
        outcomes = multi_label_outcomes(
            scores, of_test, test.keys, names, scores >= fitted.values, test.groups
        )
        details = {f"threshold/{n}": v for n, v in zip(names, fitted.values.tolist(), strict=True)}
        return Evaluation({**outcome_metrics(outcomes), "l2": l2}, (outcomes,), details)

    def _targets(self, counts: dict[str, int]) -> dict[str, Int64[Tensor, "N C"]]:
        """Return which classes apply to the first samples of each split."""
        data = self.splits.by_role()
        num_classes = len(self.class_names)
        if not num_classes:
            listed = (
                data[role].classes(number, self.fields.positives) or ()
                for role, count in counts.items()
                for number in range(count)
            )
            num_classes = 1 + max((max(classes) for classes in listed if classes), default=0)
        targets = {}
        for role, count in counts.items():
            names = data[role].class_names
            match = ClassMatch(names, self.class_names, data[role].name, "the other splits")
            targets[role] = multi_label_targets(
                data[role], range(count), self.fields, num_classes, match
            )
        return targets

    def _divided(self, parts: dict[str, _Labelled]) -> tuple[_Labelled, _Labelled]:
        """Return the samples to fit on, and those to hold out."""
        train, targets = parts["train"]
        if "validation" in parts:
            fitting, comparing = parts["train"], parts["validation"]
        else:
            classes = [(row == 1).nonzero().flatten().tolist() for row in targets]
            held = rows_of_groups(classes, train.groups)
            fitting, comparing = (
                (train.rows(rows), targets[rows])
                for rows in ((~held).nonzero().flatten(), held.nonzero().flatten())
            )
        for part, what in ((fitting, "sample to fit on"), (comparing, "held-out sample")):
            if not (part[1] == 1).any():
                raise DataError(
                    f"{self.splits.train.name}: no {what} has a class in {self.fields.positives}; "
                    f"the training split needs several of each class, or name a validation split"
                )
        return fitting, comparing

    def _report_absent(self, targets: Int64[Tensor, "N C"], names: tuple[str, ...]) -> None:
        absent = ((targets == 1).sum(0) == 0).nonzero().flatten().tolist()
        if absent:
            _LOG.warning(
                "%s: %d classes apply to no sample that the probe is fitted on: %s",
                self.splits.train.name,
                len(absent),
                listed_names([names[number] for number in absent]),
            )
