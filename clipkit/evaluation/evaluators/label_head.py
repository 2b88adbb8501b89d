"""Classification by the label head that was trained with the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import final

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from clipkit.distributed.agreement import same_errors
from clipkit.distributed.collectives import gather_rows, gather_sizes
from clipkit.errors import ConfigError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import decoded_chunks, ids_of_rank, texts_in_data_order
from clipkit.evaluation.datasets.opening import as_dataset
from clipkit.evaluation.datasets.sample_source import DataSource, ImageData
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_match import head_names, match_head
from clipkit.evaluation.evaluators.zero_shot import Predictions, outcomes_of, require_classes
from clipkit.evaluation.inference import MOVED_TO_OPTIONS, EmbedOptions
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.models import DualEncoder, LabelHead
from clipkit.models.evaluating import evaluating
from clipkit.models.tower_encoder import TowerEncoder
from clipkit.renamed_arguments import renamed_arguments


@final
class LabelHeadClassification(Evaluator):
    """Accuracy, precision, recall and calibration of the label head.

    Classes of the data are matched with those of the head by name, if both have names.

    Args:
        data: Folder, URL or pattern of shards, or an opened data set, with a class in each sample.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        options: Batch size, number of workers, limit, precision, progress bar.

    Raises:
        DataError: If the data cannot be found.

    Examples:
        >>> LabelHeadClassification("data/val").run(encoder)
        {'top1': ..., 'mean_per_class_recall': ...}
    """

    primary_metric = "top1"

    @renamed_arguments(MOVED_TO_OPTIONS)
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
        """Return the scores of every class for every image, in the order of the data.

        Raises:
            ConfigError: If the encoder has no label head.
            DataError: If an image has no class that the head knows.
        """
        return self._predict(encoder, self.data)

    def predictor(self, encoder: DualEncoder) -> Callable[[ImageData], Predictions]:
        """Return a function that classifies other images of the same classes."""
        return partial(self._predict, encoder)

    def _predict(self, encoder: DualEncoder, data: ImageData) -> Predictions:
        head = label_head_of(encoder, data.modality.name)
        ids = ids_of_rank(data, self.options)
        return head_predictions(*head_scores(encoder, data, self.options), ids, head, data)

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the metrics; ``top5`` only if there are at least five classes."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics and the outcome of each image."""
        return self.measure(encoder)[1]

    def measure(self, encoder: DualEncoder) -> tuple[Predictions, Evaluation]:
        """Return what ``predict`` and ``evaluate`` return, for one pass over the images."""
        predictions = self.predict(encoder)
        outcomes = outcomes_of(predictions)
        return predictions, Evaluation(outcome_metrics(outcomes), (outcomes,))


def label_head_of(encoder: TowerEncoder, modality: str) -> LabelHead:
    """Return the label head of an encoder on a modality."""
    if modality not in encoder.heads:
        raise ConfigError(
            f"label_head: expected an encoder with a label head on {modality!r}, got heads on "
            f"{', '.join(encoder.heads) or 'nothing'}; train one (model.encoder.label_head, or "
            f"label_heads of a MultimodalEncoder), or evaluate zero-shot"
        )
    return encoder.heads[modality]


def head_scores(
    encoder: DualEncoder, data: DataSource, options: EmbedOptions
) -> tuple[Float[Tensor, "B C"], Int64[Tensor, " B"], list[str]]:
    """Score the samples of this rank with the label head."""
    head, device = label_head_of(encoder, data.modality.name), encoder.log_logit_scale.device
    inputs = data.modality.inputs(encoder)
    scores = [torch.empty(0, head.num_classes, device=device)]
    labels, keys = list[int](), list[str]()
    with same_errors(), evaluating(encoder, options.precision):
        for chunk in decoded_chunks(encoder, data, ids_of_rank(data, options), options):
            scores.append(inputs.classify(*chunk.on(device)).float())
            labels += chunk.labels
            keys += chunk.keys
    return torch.cat(scores), torch.tensor(labels, dtype=torch.int64, device=device), keys


def head_predictions(
    scores: Float[Tensor, "B C"],
    labels: Int64[Tensor, " B"],
    keys: Sequence[str],
    ids: Sequence[int],
    head: LabelHead,
    data: ImageData,
) -> Predictions:
    """Gather what a head scored on all ranks, and match the classes with those of the head.

    Args:
        scores: Scores of the samples of this rank.
        labels: Their classes in the data.
        keys: Their names.
        ids: Their numbers.
        head: The head.
        data: The data.

    Raises:
        DataError: On every rank, if a sample of any rank has no class that the head knows.
    """
    all_keys = texts_in_data_order(keys, scores.device)
    known = match_head(data.class_names, head, data.name).labels(in_data_order(labels, ids))
    require_classes(known, head.num_classes, all_keys, data)
    names = head_names(data.class_names, head)
    return Predictions(in_data_order(scores, ids), known, names, all_keys)


def in_data_order(rows: Shaped[Tensor, "B *rest"], ids: Sequence[int]) -> Shaped[Tensor, "N *rest"]:
    """Gather the rows of all ranks in the order of the data, on the CPU of every rank."""
    sizes = [size[0] for size in gather_sizes(len(rows), device=rows.device)]
    numbers = torch.tensor(ids, dtype=torch.int64, device=rows.device)  # also of no samples
    order = gather_rows(numbers, sizes).argsort()
    return gather_rows(rows, sizes)[order].cpu()
