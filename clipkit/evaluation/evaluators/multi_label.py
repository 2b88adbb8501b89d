"""Classification of images that may have several classes."""

from __future__ import annotations

import math
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.class_names import UNKNOWN
from clipkit.errors import DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset, as_dataset
from clipkit.evaluation.datasets.loading import ids_of_rank
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_match import ClassMatch, head_names, match_head
from clipkit.evaluation.evaluators.label_head import head_scores, in_data_order, label_head_of
from clipkit.evaluation.inference import MOVED_TO_OPTIONS, EmbedOptions
from clipkit.metrics.per_class import average_precisions, mean_average_precision
from clipkit.models import DualEncoder
from clipkit.renamed_arguments import renamed_arguments
from clipkit.types import IGNORE_LABEL


@final
class MultiLabelClassification(Evaluator):
    """Mean average precision of the label head, if an image may have several classes.

    A sample without a list of classes is left out. Classes are matched with those of the head by
    name, if both have names.

    Args:
        data: Folder, URL or pattern of shards, or an opened data set.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        positives: Field of a JSON member that lists the classes of a sample.
        negatives: Field that lists the classes that do not apply, if the others are unknown; None
            if no other class applies.
        options: Batch size, number of workers, limit, precision, progress bar.

    Raises:
        DataError: If the data cannot be found.

    Examples:
        >>> MultiLabelClassification("photos/labels.csv").run(encoder)
        {'mean_average_precision': ..., 'average_precision/red': ..., ...}
    """

    primary_metric = "mean_average_precision"

    @renamed_arguments(MOVED_TO_OPTIONS)
    def __init__(
        self,
        data: str | Path | EvaluationDataset,
        split: str = "test",
        positives: str = "json:labels",
        negatives: str | None = None,
        options: EmbedOptions = EmbedOptions(),
    ) -> None:
        self.data = as_dataset(data, split)
        self.class_names = self.data.class_names
        self.positives, self.negatives = positives, negatives
        self.options = options

    def predict(self, encoder: DualEncoder) -> tuple[Float[Tensor, "N C"], Int64[Tensor, "N C"]]:
        """Return scores and targets (1, 0, ``IGNORE_LABEL`` for unknown) of every image.

        Raises:
            ConfigError: If the encoder has no label head.
            DataError: If an image has a class that the head does not know.
        """
        head, ids = label_head_of(encoder), ids_of_rank(self.data, self.options)
        match = match_head(self.class_names, head, self.data.name)
        targets = torch.empty(len(ids), head.num_classes, dtype=torch.int64)
        for row, sample_id in enumerate(ids):
            targets[row] = self._targets(sample_id, head.num_classes, match)
        scores, _, _ = head_scores(encoder, self.data, self.options)
        return in_data_order(scores, ids), in_data_order(targets.to(scores.device), ids)

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the mean average precision, and that of each class of an image."""
        scores, targets = self.predict(encoder)
        names = head_names(self.class_names, label_head_of(encoder))
        values = average_precisions(scores, targets).tolist()
        by_class = {
            f"average_precision/{name}": value
            for name, value in zip(names, values, strict=True)
            if not math.isnan(value)
        }
        return {"mean_average_precision": mean_average_precision(scores, targets), **by_class}

    def _targets(self, sample_id: int, num_classes: int, match: ClassMatch) -> Int64[Tensor, " C"]:
        positives = self._classes(sample_id, self.positives, num_classes, match)
        is_complete = positives is not None and self.negatives is None
        target = torch.full((num_classes,), 0 if is_complete else IGNORE_LABEL)
        if self.negatives is not None:
            target[self._classes(sample_id, self.negatives, num_classes, match) or []] = 0
        target[positives or []] = 1
        return target

    def _classes(
        self, sample_id: int, field: str, num_classes: int, match: ClassMatch
    ) -> list[int] | None:
        """Return the classes that a field lists, as numbers of the head."""
        numbers = self.data.classes(sample_id, field)
        if numbers is None:
            return None
        classes = [match.number(number) for number in numbers]
        if UNKNOWN in classes:
            match.refuse([n for n, to in zip(numbers, classes, strict=True) if to == UNKNOWN])
        if classes and max(classes) >= num_classes:
            raise DataError(
                f"{self.data.name}: sample {sample_id} has class {max(classes)}; expected 0 to "
                f"{num_classes - 1}, the classes of the label_head"
            )
        return classes
