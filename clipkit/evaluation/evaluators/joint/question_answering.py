"""Answers to questions about images, by the label head on the fusion of a joint encoder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

import torch
import torch.nn.functional as F

from clipkit.data.samples.answers import majority_answer, normal_answer, read_answers
from clipkit.data.samples.content import IMAGES_AND_SOUNDS, sample_errors
from clipkit.distributed.agreement import same_errors
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import ids_of_rank, texts_in_data_order
from clipkit.evaluation.datasets.opening import as_dataset
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.joint.fused_scores import checked_joint, fused_scores
from clipkit.evaluation.evaluators.label_head import in_data_order
from clipkit.evaluation.evaluators.zero_shot import Predictions, outcomes_of
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes
from clipkit.metrics.answers import vqa_accuracy
from clipkit.models import DualEncoder
from clipkit.models.joint.joint_encoder import FUSED

_TASK: Final = "question-answering"
OTHER: Final = "(another answer)"
"""Class of the questions whose most frequent answer the head does not know."""


@final
class QuestionAnswering(Evaluator):
    """VQA accuracy, and accuracy of the most frequent answer, of questions about images.

    The label head on the fusion of a ``JointEncoder`` chooses one of the answers that it was
    trained on, which are the names of its classes; the question is the first caption of a sample. A
    question whose answers the head does not know counts as wrong.

    ``vqa_accuracy`` is the mean of ``clipkit.metrics.vqa_accuracy``. ``top1`` and the metrics of
    classes compare with the most frequent answer to each question. Intervals draw complete images,
    because questions about one image depend on one another.

    Args:
        data: Folder, URL or pattern of shards, a table, or an opened data set, with answers to a
            question in each sample.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        answer_field: Where the answers of a sample are: a member or a field of a JSON member; None
            for ``json:answers`` or ``json:answer``.
        options: Batch size, number of workers, limit, precision, progress bar.

    Raises:
        DataError: If the data cannot be found.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=1, num_heads=2))
        >>> joint = with_fused_head(joint, LinearLabelHead(16, num_classes=2))
        >>> joint.heads["fused"].class_names = ("red", "blue")
        >>> QuestionAnswering("data/val", answer_field="json:color").run(joint)
        {'vqa_accuracy': ..., 'top1': ..., ...}
    """

    primary_metric = "vqa_accuracy"

    def __init__(
        self,
        data: str | Path | EvaluationDataset,
        split: str = "test",
        answer_field: str | None = None,
        options: EmbedOptions = EmbedOptions(),
    ) -> None:
        self.data = as_dataset(data, split)
        self.answer_field, self.options = answer_field, options

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return ``vqa_accuracy``, and the metrics of a classification of the answers."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics and the outcome of each question; see ``run``.

        ``details`` tell for which share of the questions the head knows the most frequent answer.
        """
        return self.measure(encoder)[1]

    def measure(self, encoder: DualEncoder) -> tuple[Predictions, Evaluation]:
        """Return the scores of the answers, and what ``evaluate`` returns.

        Raises:
            ConfigError: If the encoder has no label head on a fusion of images and texts, or its
                answers are not known.
            DataError: If a sample has no question or no answer.
        """
        joint = checked_joint(encoder, _TASK)
        names = _names(joint.heads[FUSED].class_names)
        ids = ids_of_rank(self.data, self.options)
        scored = fused_scores(joint, self.data, self.options, _TASK)
        logits = in_data_order(scored.logits, ids)
        with same_errors():
            answers = self._answers(len(logits))
        numbers = {name: number for number, name in enumerate(names)}
        labels = [numbers.get(majority_answer(one) or "", len(names)) for one in answers]
        predictions = Predictions(
            F.pad(logits, (0, 1), value=-torch.inf),
            torch.tensor(labels),
            (*names, OTHER),
            texts_in_data_order(scored.keys, scored.logits.device),
            groups=texts_in_data_order(scored.files, scored.logits.device),
        )
        classes = outcomes_of(predictions)
        chosen = [names[number] for number in logits.argmax(1).tolist()]
        values = [vqa_accuracy(*pair) for pair in zip(chosen, answers, strict=True)]
        agreement = {"vqa_accuracy": torch.tensor(values, dtype=torch.float64)}
        people = Outcomes("means", classes.keys, classes.groups, agreement)
        metrics = {**outcome_metrics(people), **outcome_metrics(classes)}
        known = sum(label < len(names) for label in labels) / len(labels)
        return predictions, Evaluation(metrics, (classes, people), {"known_answers": known})

    def _answers(self, count: int) -> list[tuple[str, ...]]:
        """Return the answers to each question, in the order of the data."""
        found = []
        for number in range(count):
            raw = self.data.members(number, leave_out=IMAGES_AND_SOUNDS)
            with sample_errors(self.data.name, raw.key):
                answers = read_answers(raw.members, self.answer_field)
            if not answers:
                where = self.answer_field or "json:answers and json:answer"
                raise DataError(f"{self.data.name}: {raw.key}: no answer in {where}")
            found.append(answers)
        return found


def _names(class_names: Sequence[str]) -> list[str]:
    """Return the answers of a head, as answers are compared."""
    if not any(class_names):
        raise ConfigError(
            f"{_TASK}: expected a label head whose classes are answers, got one without names; "
            f"train it with clipkit finetune --task vqa, or with the field clipkit.data.Answers"
        )
    return [normal_answer(name) for name in class_names]
