"""Classification where a picture may have several classes: average precision of each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.class_names import UNKNOWN
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset, as_dataset
from clipkit.evaluation.datasets.loading import decoded_chunks, ids_of_rank
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_match import ClassMatch, head_names, match_head
from clipkit.evaluation.evaluators.label_head import in_data_order
from clipkit.evaluation.inference import EmbedOptions, evaluating
from clipkit.metrics.per_class import average_precisions, mean_average_precision
from clipkit.models import DualEncoder
from clipkit.types import IGNORE_LABEL


@final
class MultiLabelClassification(Evaluator):
    """Mean average precision of the encoder's label head.

    A sample's classes are the list ``labels`` of its JSON member; classes that are not in it do not
    apply. A sample without such a list is left out. Classes are matched with those of the head by
    name, where both have names.

    Args:
        data: Folder, URL, pattern of shards, or an opened data set.
        split: Folder inside ``data`` in CLIP_benchmark's layout.
        options: Batch size, number of workers, limit, precision, progress bar.

    Raises:
        DataError: If the data cannot be found.

    Examples:
        >>> MultiLabelClassification("photos/labels.csv").run(encoder)
        {'mean_average_precision': ..., 'average_precision/red': ..., ...}
    """

    primary_metric = "mean_average_precision"

    def __init__(
        self,
        data: str | Path | EvaluationDataset,
        split: str = "test",
        options: EmbedOptions = EmbedOptions(),
    ) -> None:
        self.data = as_dataset(data, split)
        self.class_names = self.data.class_names
        self.options = options

    def predict(self, encoder: DualEncoder) -> tuple[Float[Tensor, "N C"], Int64[Tensor, "N C"]]:
        """Scores and targets (1, 0, ``IGNORE_LABEL`` for unknown) of every picture, on every rank.

        Raises:
            ConfigError: If the encoder has no label head.
            DataError: If a picture has a class that the head does not know.
        """
        if encoder.label_head is None:
            raise ConfigError("label_head: this encoder has none; multi-label metrics need one")
        device, num_classes = encoder.log_logit_scale.device, encoder.label_head.num_classes
        ids = ids_of_rank(self.data, self.options)
        match = match_head(self.class_names, encoder.label_head, self.data.name)
        own = [_targets(self.data, number, num_classes, match) for number in ids]
        targets = torch.stack(own) if own else torch.empty(0, num_classes, dtype=torch.int64)
        scores = [torch.empty(0, num_classes, device=device)]
        with evaluating(encoder, self.options.precision):
            for chunk in decoded_chunks(encoder, self.data, ids, self.options):
                scores.append(encoder.classify(chunk.images.to(device)).float())
        return in_data_order(torch.cat(scores), ids), in_data_order(targets.to(device), ids)

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """``mean_average_precision``, and that of each class that applies to a picture."""
        scores, targets = self.predict(encoder)
        assert encoder.label_head is not None, "predict refuses an encoder without one"
        names = head_names(self.class_names, encoder.label_head)
        values = average_precisions(scores, targets).tolist()
        single = {
            f"average_precision/{n}": v
            for n, v in zip(names, values, strict=True)
            if not math.isnan(v)
        }
        return {"mean_average_precision": mean_average_precision(scores, targets), **single}


def _targets(
    data: EvaluationDataset, sample_id: int, num_classes: int, match: ClassMatch
) -> Int64[Tensor, " C"]:
    given = data.classes(sample_id)
    if given is None:
        return torch.full((num_classes,), IGNORE_LABEL)
    classes = [match.number(number) for number in given]
    if UNKNOWN in classes:
        match.refuse([n for n, to in zip(given, classes, strict=True) if to == UNKNOWN])
    if classes and max(classes) >= num_classes:
        raise DataError(
            f"{data.name}: sample {sample_id} has class {max(classes)}; expected 0 to "
            f"{num_classes - 1}, as many as the label_head knows"
        )
    target = torch.zeros(num_classes, dtype=torch.int64)
    target[classes] = 1
    return target
