"""Classification by the head that was trained with the encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import final

import torch
from jaxtyping import Shaped
from torch import Tensor

from clipkit.distributed.collectives import gather_rows, gather_sizes
from clipkit.errors import ConfigError
from clipkit.evaluation.datasets.dataset import EvaluationDataset, as_dataset
from clipkit.evaluation.datasets.loading import decoded_chunks, ids_of_rank
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_match import head_names, match_head
from clipkit.evaluation.evaluators.zero_shot import Predictions, check_labels
from clipkit.evaluation.inference import EmbedOptions, evaluating
from clipkit.metrics.functional import classification_accuracy
from clipkit.models import DualEncoder


@final
class LabelHeadClassification(Evaluator):
    """Top-1, top-5 and the mean of the classes' recalls of the encoder's label head.

    Classes of the data are matched with those of the head by name, where both have names.

    Args:
        data: Folder, URL, pattern of shards, or an opened data set, with a class in each sample.
        split: Folder inside ``data`` in CLIP_benchmark's layout.
        options: Batch size, number of workers, limit, precision, progress bar.

    Raises:
        DataError: If the data cannot be found.

    Examples:
        >>> LabelHeadClassification("data/val").run(encoder)
        {'top1': ..., 'mean_per_class_recall': ...}
    """

    primary_metric = "top1"

    def __init__(
        self,
        data: str | Path | EvaluationDataset,
        split: str = "test",
        options: EmbedOptions = EmbedOptions(),
    ) -> None:
        self.data = as_dataset(data, split)
        self.class_names = self.data.class_names
        self.options = options

    def predict(self, encoder: DualEncoder) -> Predictions:
        """Scores of every class for every picture, in the order of the data, on every rank.

        Raises:
            ConfigError: If the encoder has no label head.
            DataError: If an image has no class that the head knows.
        """
        if encoder.label_head is None:
            raise ConfigError(
                "label_head: this encoder has none; train one (model.encoder.label_head), or "
                "evaluate zero-shot"
            )
        device = encoder.log_logit_scale.device
        ids = ids_of_rank(self.data, self.options)
        scores = [torch.empty(0, encoder.label_head.num_classes, device=device)]
        labels: list[int] = []
        keys: list[str] = []
        with evaluating(encoder, self.options.precision):
            for chunk in decoded_chunks(encoder, self.data, ids, self.options):
                scores.append(encoder.classify(chunk.images.to(device)).float())
                labels += chunk.labels
                keys += chunk.keys
        own = torch.tensor(labels, dtype=torch.int64, device=device)
        own = match_head(self.class_names, encoder.label_head, self.data.name).labels(own)
        check_labels(own, encoder.label_head.num_classes, keys, self.data.name)
        return Predictions(
            in_data_order(torch.cat(scores), ids),
            in_data_order(own, ids),
            head_names(self.class_names, encoder.label_head),
        )

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """The metrics; ``top5`` only where there are at least five classes."""
        predictions = self.predict(encoder)
        return classification_accuracy(predictions.scores, predictions.labels)


def in_data_order(own: Shaped[Tensor, "B *rest"], ids: Sequence[int]) -> Shaped[Tensor, "N *rest"]:
    """The rows of all ranks in the order of the data, on the CPU of every rank.

    Args:
        own: One row a sample of this rank.
        ids: Those samples.
    """
    sizes = [size[0] for size in gather_sizes(len(own), device=own.device)]
    order = gather_rows(torch.tensor(ids, device=own.device), sizes).argsort()
    return gather_rows(own, sizes)[order].cpu()
