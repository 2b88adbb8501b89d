"""Classification of images with texts by the label head on the fusion of a joint encoder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final, final

from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import ids_of_rank, texts_in_data_order
from clipkit.evaluation.datasets.opening import as_dataset
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.joint.fused_scores import checked_joint, fused_scores
from clipkit.evaluation.evaluators.label_head import head_predictions
from clipkit.evaluation.evaluators.zero_shot import Predictions, outcomes_of
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.models import DualEncoder
from clipkit.models.joint.joint_encoder import FUSED

_TASK: Final = "joint-classification"


@final
class JointClassification(Evaluator):
    """Accuracy, recall and F1 of the classes of images with texts, such as visual entailment.

    The label head on the fusion of a ``JointEncoder`` scores the classes of each image with its
    first caption. Classes of the data are matched with those of the head by name, if both have
    names. Intervals draw complete images, because samples about one image depend on one another.

    Args:
        data: Folder, URL or pattern of shards, or an opened data set, with a class in each sample.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        options: Batch size, number of workers, limit, precision, progress bar.

    Raises:
        DataError: If the data cannot be found.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=1, num_heads=2))
        >>> joint = with_fused_head(joint, LinearLabelHead(16, num_classes=4))
        >>> JointClassification("data/val").run(joint)
        {'top1': ..., 'mean_per_class_recall': ..., 'macro_f1': ..., ...}
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
        """Return the logits of every class for every sample, in the order of the data.

        Raises:
            ConfigError: If the encoder has no label head on a fusion of images and texts.
            DataError: If a sample has no text, or no class that the head knows.
        """
        joint = checked_joint(encoder, _TASK)
        scored = fused_scores(joint, self.data, self.options, _TASK)
        predictions = head_predictions(
            scored.logits, scored.labels, scored.keys, ids_of_rank(self.data, self.options),
            joint.heads[FUSED], self.data,
        )  # fmt: skip
        files = texts_in_data_order(scored.files, scored.logits.device)
        return replace(predictions, groups=files)

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the metrics; ``top5`` only if there are at least five classes."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics and the outcome of each sample."""
        return self.measure(encoder)[1]

    def measure(self, encoder: DualEncoder) -> tuple[Predictions, Evaluation]:
        """Return what ``predict`` and ``evaluate`` return, for one pass over the samples."""
        predictions = self.predict(encoder)
        outcomes = outcomes_of(predictions)
        return predictions, Evaluation(outcome_metrics(outcomes), (outcomes,))
