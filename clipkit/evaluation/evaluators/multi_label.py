"""Classification of images that may have several classes, by the label head."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import final

from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.distributed.agreement import same_errors
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import ids_of_rank, texts_in_data_order
from clipkit.evaluation.datasets.opening import as_dataset
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_match import head_names, match_head
from clipkit.evaluation.evaluators.label_head import head_scores, in_data_order, label_head_of
from clipkit.evaluation.evaluators.multi_label_decisions import (
    MultiLabelPredictions,
    calibration_of,
    evaluate_decisions,
)
from clipkit.evaluation.evaluators.multi_label_targets import ClassFields, multi_label_targets
from clipkit.evaluation.inference import MOVED_TO_OPTIONS, EmbedOptions
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.models import DualEncoder
from clipkit.renamed_arguments import renamed_arguments


@final
class MultiLabelClassification(Evaluator):
    """Average precision, AUROC and F1 of the label head, if an image may have several classes.

    A sample without a list of classes is left out. Classes are matched with those of the head by
    name, if both have names. A class is predicted if its probability is above one half, or if its
    score reaches a threshold that was fitted on a calibration split.

    Args:
        data: Folder, URL or pattern of shards, or an opened data set.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        positives: Field of a JSON member that lists the classes of a sample, or a ``.npy`` member;
            None for "npy" in CLIP_benchmark's data of several classes, otherwise "json:labels".
        negatives: Field that lists the classes that do not apply, if the others are unknown; None
            if no other class applies.
        options: Batch size, number of workers, limit, precision, progress bar.
        calibration_split: Split of the data on which thresholds are fitted; its images must not be
            those of ``split``. None for no fitted thresholds.
        thresholds: "global" for one threshold, or "per-class".
        hold_out_by: Field with the group of each image whose images depend on one another, such as
            "json:patient_id": intervals draw complete groups, and a group must not be in both
            splits. None if images are independent.

    Raises:
        DataError: If the data cannot be found.

    Examples:
        >>> MultiLabelClassification("photos/labels.csv").run(encoder)
        {'mean_average_precision': ..., 'average_precision/blue': ..., ...}
    """

    primary_metric = "mean_average_precision"

    @renamed_arguments(MOVED_TO_OPTIONS)
    def __init__(
        self,
        data: str | Path | EvaluationDataset,
        split: str = "test",
        positives: str | None = None,
        negatives: str | None = None,
        options: EmbedOptions = EmbedOptions(),
        calibration_split: str | None = None,
        thresholds: str = "global",
        hold_out_by: str | None = None,
    ) -> None:
        self.data = as_dataset(data, split)
        self.class_names = self.data.class_names
        self.fields = ClassFields.of(self.data, positives, negatives)
        self.options = options
        self.calibration = calibration_of(self.data, calibration_split, thresholds)
        self.thresholds, self.hold_out_by = thresholds, hold_out_by

    def predict(self, encoder: DualEncoder) -> tuple[Float[Tensor, "N C"], Int64[Tensor, "N C"]]:
        """Return scores and targets (1, 0, ``IGNORE_LABEL`` for unknown) of every image.

        Raises:
            ConfigError: If the encoder has no label head.
            DataError: If an image has a class that the head does not know.
        """
        predictions = self._predict(encoder, self.data)
        return predictions.scores, predictions.targets

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the means over the classes of an image, and the metrics of each of them."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics, the outcome of each image, and the fitted thresholds."""
        predict = partial(self._predict, encoder)
        return evaluate_decisions(
            predict, self.data, self.calibration, self.thresholds, self.options, self.hold_out_by
        )

    def _predict(self, encoder: DualEncoder, data: EvaluationDataset) -> MultiLabelPredictions:
        head = label_head_of(encoder, data.modality.name)
        ids = ids_of_rank(data, self.options)
        match = match_head(data.class_names, head, data.name)
        with same_errors():
            targets = multi_label_targets(data, ids, self.fields, head.num_classes, match)
        scores, _, keys = head_scores(encoder, data, self.options)
        return MultiLabelPredictions(
            in_data_order(scores, ids),
            in_data_order(targets.to(scores.device), ids),
            head_names(self.class_names, head),
            texts_in_data_order(keys, scores.device),
            decide=True,
        )
