"""Zero-shot classification: images are assigned to the class whose prompts are most similar."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.class_names import shown_names
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import ConfigError, DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.leaks import groups_of, refuse_leaks
from clipkit.evaluation.datasets.opening import as_dataset
from clipkit.evaluation.datasets.sample_source import ImageData
from clipkit.evaluation.embedding import embed_pairs, tokenizer_of
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_match import ClassMatch
from clipkit.evaluation.inference import MOVED_TO_OPTIONS, EmbedOptions
from clipkit.evaluation.outcomes.classification import classification_outcomes
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.outcomes import Evaluation, Outcomes
from clipkit.evaluation.outcomes.worst_group import worst_group_outcomes
from clipkit.evaluation.prompts.class_lists import resolve_class_names
from clipkit.evaluation.prompts.class_prompts import ClassPrompts, Templates, resolve_prompts
from clipkit.evaluation.prompts.embeddings import prompt_embeddings
from clipkit.metrics.calibration import fit_logit_scale
from clipkit.metrics.per_class import confusion_matrix
from clipkit.models import DualEncoder
from clipkit.models.evaluating import evaluating
from clipkit.renamed_arguments import renamed_arguments
from clipkit.types import IGNORE_LABEL

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Predictions:
    """Scores of every class for every image.

    Args:
        scores: Cosine similarities, or logits of a label head.
        labels: True class of each image, as a column of ``scores``.
        class_names: Name of each column; C distinct names.
        keys: Name of each image; empty if the images have no names.
        logit_scale: Factor that makes logits of the scores: 1 for logits.
        groups: Group of each image, such as the file that several questions are about; empty if
            images are independent of one another.
    """

    scores: Float[Tensor, "N C"]
    labels: Int64[Tensor, " N"]
    class_names: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    logit_scale: float = 1.0
    groups: tuple[str, ...] = ()


def confusion_counts(
    predictions: Predictions, num_classes: int | None = None
) -> Int64[Tensor, "C C"]:
    """Count how often each true class (row) was predicted as each class (column).

    Args:
        predictions: Scores and true classes.
        num_classes: C; None for the number of columns of the scores.

    Returns:
        Counts; correct predictions are on the diagonal.

    Examples:
        >>> scores = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
        >>> confusion_counts(Predictions(scores, torch.tensor([0, 1]))).tolist()
        [[1, 0], [1, 0]]
    """
    size = predictions.scores.shape[1] if num_classes is None else num_classes
    return confusion_matrix(predictions.scores.argmax(1), predictions.labels, size)


@final
class ZeroShotClassification(Evaluator):
    """Accuracy, precision, recall and calibration of zero-shot predictions.

    The probabilities are the softmax of the similarities times the encoder's logit scale.

    Args:
        data: Folder, URL or pattern of shards, or an opened data set, with a class in each sample.
        tokenizer: Tokenizer for the prompts; None for that of the text tower.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        class_names: Names in the order of class numbers, "imagenet", or a file; see
            ``resolve_class_names``; None for those of the data. Numbers with an empty name are not
            predicted.
        templates: Sentences with ``{}`` for the class name, a name of ``TEMPLATE_LISTS``, a file,
            or prompts of each class; see ``resolve_prompts``. None for those of the data, or
            ``GENERIC_TEMPLATES`` if the data have none.
        options: Batch size, number of workers, limit, precision, progress bar.
        group_field: Field with the group of each image, such as "json:region"; the groups and the
            worst one are measured too. None for no groups.
        calibration_split: Split of the data on which a temperature is fitted; its images must not
            be those of ``split``. None for no temperature.
        hold_out_by: Field with the group of each image whose images depend on one another, such as
            "json:patient_id": intervals draw complete groups, and a group must not be in both
            splits. None if images are independent.
        facts: Table of facts (CSV, TSV, JSON or Parquet), whose definitions are added to the
            prompts; see ``FactTable.from_file``. None for none.

    Raises:
        DataError: If the data cannot be found, name no classes, or the calibration split has images
            that are measured.
        ConfigError: If a template has no place for the class name.

    Examples:
        >>> ZeroShotClassification("data/val").run(encoder)
        {'top1': ..., 'mean_per_class_recall': ..., 'ece': ...}
    """

    primary_metric = "top1"

    @renamed_arguments(MOVED_TO_OPTIONS)
    def __init__(
        self,
        data: str | Path | EvaluationDataset,
        tokenizer: Tokenizer | None = None,
        split: str = "test",
        class_names: str | Sequence[str] | None = None,
        templates: Templates | None = None,
        options: EmbedOptions = EmbedOptions(),
        group_field: str | None = None,
        calibration_split: str | None = None,
        hold_out_by: str | None = None,
        facts: str | None = None,
    ) -> None:
        self.data = as_dataset(data, split)
        self.class_names = resolve_class_names(class_names, self.data)
        names = [name for name in self.class_names if name]
        if len(names) < 2:
            raise DataError(
                f"{self.data.name}: zero-shot classification needs the names of at least two "
                f"classes, got {len(names)}; write classnames.txt, one name per line"
            )
        self.prompts = resolve_prompts(templates, names, self.data, facts)
        if self.prompts.negative:
            raise ConfigError(
                "templates: negative prompts are for images with several classes; expected only "
                "positive prompts, or the task zero-shot-multi-label"
            )
        _report_repeated(self.prompts, names, self.data.name)
        self.templates = self.prompts.templates
        self.calibration: EvaluationDataset | None = None
        if calibration_split is not None:
            self.calibration = self.data.with_split(calibration_split)
        self.group_field, self.hold_out_by = group_field, hold_out_by
        self._tokenizer = tokenizer
        self.options = options

    def predict(self, encoder: DualEncoder) -> Predictions:
        """Return the scores of every class for every image, which ``run`` measures.

        Raises:
            DataError: If an image has no class, or a class without a name.
        """
        return self._predict(encoder, self.data, self._classifier(encoder))

    def predictor(self, encoder: DualEncoder) -> Callable[[ImageData], Predictions]:
        """Return a function that classifies other images of the same classes.

        The class embeddings are computed once.
        """
        return partial(self._predict, encoder, classifier=self._classifier(encoder))

    def run(self, encoder: DualEncoder) -> dict[str, float]:
        """Return the metrics; ``top5`` only if there are at least five classes."""
        return self.evaluate(encoder).metrics

    def evaluate(self, encoder: DualEncoder) -> Evaluation:
        """Return the metrics, the outcome of each image, and the fitted temperature."""
        return self.measure(encoder)[1]

    def measure(self, encoder: DualEncoder) -> tuple[Predictions, Evaluation]:
        """Return what ``predict`` and ``evaluate`` return, for one pass over the images."""
        classifier = self._classifier(encoder)
        predictions = self._predict(encoder, self.data, classifier)
        scale, details = None, dict[str, float]()
        if self.calibration is not None:
            fitted_on = self._predict(encoder, self.calibration, classifier)
            refuse_leaks(
                (self.calibration, fitted_on.keys),
                (self.data, predictions.keys),
                self.options,
                self.hold_out_by,
            )
            scale = fit_logit_scale(fitted_on.scores, fitted_on.labels)
            details["temperature"] = predictions.logit_scale / scale
        units = None
        if self.hold_out_by is not None:
            units = groups_of(self.data, self.hold_out_by, predictions.keys)
        parts = [outcomes_of(predictions, scale, units)]
        if self.group_field is not None:
            groups = groups_of(self.data, self.group_field, predictions.keys)
            parts.append(worst_group_outcomes(_hits(parts[0]), groups, parts[0]))
        metrics = {k: v for part in parts for k, v in outcome_metrics(part).items()}
        return predictions, Evaluation(metrics, tuple(parts), details)

    def _classifier(self, encoder: DualEncoder) -> tuple[Float[Tensor, "C D"], float]:
        """Return one embedding per class, and the logit scale."""
        tokenizer = self._tokenizer or tokenizer_of(encoder)
        with evaluating(encoder, self.options.precision):
            classes = prompt_embeddings(
                encoder, self.prompts.positive, tokenizer, self.options.batch_size
            )
            return classes.cpu(), float(encoder.scale_with_text(self.data.modality.name))

    def _predict(
        self,
        encoder: DualEncoder,
        data: ImageData,
        classifier: tuple[Float[Tensor, "C D"], float],
    ) -> Predictions:
        classes, logit_scale = classifier
        pairs = embed_pairs(encoder, data, self.options, self._tokenizer, captions=False)
        match = ClassMatch(data.class_names, self.data.class_names, data.name, self.data.name)
        labels = self._named(match.labels(pairs.labels), pairs.keys, data)
        scores = pairs.images @ classes.T
        for number, earlier in self.prompts.repeated().items():
            # Equal prompts are no evidence for either class: the first one is predicted, as by
            # argmax; a tie would make both incorrect.
            scores[:, number] = scores[:, earlier].nextafter(torch.tensor(-torch.inf))
        names = [name for name in self.class_names if name]
        return Predictions(scores, labels, shown_names(names, len(names)), pairs.keys, logit_scale)

    def _named(
        self, labels: Int64[Tensor, " N"], keys: Sequence[str], data: ImageData
    ) -> Int64[Tensor, " N"]:
        """Return the position of each sample's class among the classes with a name."""
        require_classes(labels, len(self.class_names), keys, data)
        has_name = torch.tensor([bool(name) for name in self.class_names])
        nameless = (~has_name[labels]).nonzero().flatten().tolist()
        if nameless:
            what, first = data.modality.plural, nameless[0]
            raise DataError(
                f"{data.name}: {len(nameless)} of {len(labels)} {what} have a class without a "
                f"name (first: {keys[first]}, class {int(labels[first])}); name it in "
                f"classnames.txt, or next to its number in the table"
            )
        return (has_name.cumsum(0) - 1)[labels]


def outcomes_of(
    predictions: Predictions,
    calibrated_scale: float | None = None,
    groups: Sequence[str] | None = None,
) -> Outcomes:
    """Return the outcomes of predictions, with their confidences.

    Args:
        predictions: Scores and true classes.
        calibrated_scale: Factor of the scores that was fitted on other images; None for none.
        groups: Group of each image; None for those of the predictions.
    """
    keys = predictions.keys or tuple(map(str, range(len(predictions.labels))))
    return classification_outcomes(
        predictions.scores, predictions.labels, keys, predictions.class_names,
        groups or predictions.groups, predictions.logit_scale, calibrated_scale,
    )  # fmt: skip


def _hits(outcomes: Outcomes) -> dict[str, Tensor]:
    ranks, num_classes = outcomes.columns["rank"], len(outcomes.class_names)
    return {f"top{k}": (ranks < k).float() for k in (1, 5) if k <= num_classes}


def _report_repeated(prompts: ClassPrompts, names: Sequence[str], data_name: str) -> None:
    for number, earlier in prompts.repeated().items():
        _LOG.warning(
            "%s: the classes %d and %d have the same prompts (%s): the first one is predicted, and "
            "images of the second one count as incorrect",
            data_name, earlier, number, names[number],
        )  # fmt: skip


def require_classes(
    labels: Int64[Tensor, " N"], num_classes: int, keys: Sequence[str], data: ImageData
) -> None:
    """Refuse images whose class is missing or out of range."""
    wrong = ((labels < 0) | (labels >= num_classes)).nonzero().flatten().tolist()
    if not wrong:
        return
    label = int(labels[wrong[0]])
    problem = f"no class in {data.label_field}" if label == IGNORE_LABEL else f"class {label}"
    raise DataError(
        f"{data.name}: {len(wrong)} of {len(labels)} {data.modality.plural} have no usable class "
        f"(first: {keys[wrong[0]]}, {problem}); expected 0 to {num_classes - 1}"
    )
