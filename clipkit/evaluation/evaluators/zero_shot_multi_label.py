"""Zero-shot classification of images that may have several classes."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import final

from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.class_names import shown_names
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.distributed.agreement import same_errors
from clipkit.errors import DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.loading import ids_of_rank
from clipkit.evaluation.datasets.opening import as_dataset
from clipkit.evaluation.embedding import embed_pairs, tokenizer_of
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.class_match import ClassMatch
from clipkit.evaluation.evaluators.label_head import in_data_order
from clipkit.evaluation.evaluators.multi_label_decisions import (
    MultiLabelPredictions,
    calibration_of,
    evaluate_decisions,
)
from clipkit.evaluation.evaluators.multi_label_targets import ClassFields, multi_label_targets
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.evaluation.prompts.class_lists import resolve_class_names
from clipkit.evaluation.prompts.class_prompts import Templates, resolve_prompts
from clipkit.evaluation.prompts.embeddings import prompt_embeddings
from clipkit.models import DualEncoder
from clipkit.models.evaluating import evaluating


@final
class ZeroShotMultiLabel(Evaluator):
    """Average precision, AUROC and F1 of zero-shot predictions of several classes per image.

    Each class is scored by itself. With positive and negative prompts the score is the difference
    of the two similarities times the encoder's logit scale, and a class is predicted if it is above
    0. Without negative prompts, the score is the logit of an encoder with a logit bias (SigLIP),
    which has the same threshold, or else the similarity, which has none: precision, recall and F1
    then need a calibration split.

    Args:
        data: Folder, URL or pattern of shards, or an opened data set.
        tokenizer: Tokenizer for the prompts; None for that of the text tower.
        split: Folder inside ``data``, in CLIP_benchmark's layout.
        class_names: Names in the order of class numbers, "imagenet", or a file; see
            ``resolve_class_names``; None for those of the data.
        templates: Templates, a name of ``TEMPLATE_LISTS``, a file, or prompts of each class,
            "positive" and "negative" ones if there are pairs; see ``resolve_prompts``. None for
            those of the data, or ``GENERIC_TEMPLATES`` if the data have none.
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
        facts: Table of facts (CSV, TSV, JSON or Parquet), whose definitions are added to the
            prompts; see ``FactTable.from_file``. None for none.

    Raises:
        DataError: If the data cannot be found or name no classes.
        ConfigError: If a template has no place for the class name.

    Examples:
        >>> templates = {"positive": ["a photo of {}"], "negative": ["a photo without {}"]}
        >>> ZeroShotMultiLabel("photos/labels.csv", templates=templates).run(encoder)
        {'mean_average_precision': ..., 'macro_auroc': ..., 'micro_f1': ..., ...}
    """

    primary_metric = "mean_average_precision"

    def __init__(
        self,
        data: str | Path | EvaluationDataset,
        tokenizer: Tokenizer | None = None,
        split: str = "test",
        class_names: str | Sequence[str] | None = None,
        templates: Templates | None = None,
        positives: str | None = None,
        negatives: str | None = None,
        options: EmbedOptions = EmbedOptions(),
        calibration_split: str | None = None,
        thresholds: str = "global",
        hold_out_by: str | None = None,
        facts: str | None = None,
    ) -> None:
        self.data = as_dataset(data, split)
        self.class_names = resolve_class_names(class_names, self.data)
        self._columns = [number for number, name in enumerate(self.class_names) if name]
        if not self._columns:
            raise DataError(
                f"{self.data.name}: zero-shot classification needs the names of the classes, got "
                f"none; write classnames.txt, one name per line"
            )
        names = [self.class_names[number] for number in self._columns]
        self.prompts = resolve_prompts(templates, names, self.data, facts)
        self.templates = self.prompts.templates
        self.fields = ClassFields.of(self.data, positives, negatives)
        self.options = options
        self.calibration = calibration_of(self.data, calibration_split, thresholds)
        self.thresholds, self.hold_out_by = thresholds, hold_out_by
        self._tokenizer = tokenizer

    def predict(self, encoder: DualEncoder) -> tuple[Float[Tensor, "N C"], Int64[Tensor, "N C"]]:
        """Return scores and targets (1, 0, ``IGNORE_LABEL`` for unknown) of every image.

        Raises:
            DataError: If an image has a class without a name.
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
        with same_errors():
            targets = self._targets(data)
        pairs = embed_pairs(encoder, data, self.options, self._tokenizer, captions=False)
        scores, decide = self._scores(encoder, pairs.images)
        names = [self.class_names[number] for number in self._columns]
        device = encoder.log_logit_scale.device
        return MultiLabelPredictions(
            scores,
            in_data_order(targets.to(device), ids_of_rank(data, self.options)),
            shown_names(names, len(names)),
            pairs.keys,
            decide,
        )

    def _scores(
        self, encoder: DualEncoder, images: Float[Tensor, "N D"]
    ) -> tuple[Float[Tensor, "N C"], bool]:
        """Return the score of each class, and whether 0 is a threshold."""
        tokenizer = self._tokenizer or tokenizer_of(encoder)
        with evaluating(encoder, self.options.precision):
            positive, negative = (
                prompt_embeddings(encoder, prompts, tokenizer, self.options.batch_size).cpu()
                for prompts in (self.prompts.positive, self.prompts.negative)
            )
            scale = float(encoder.scale_with_text(self.data.modality.name))
            bias = None if encoder.logit_bias is None else float(encoder.logit_bias)
        similarity = images @ positive.T
        if len(negative):
            return scale * (similarity - images @ negative.T), True
        return (similarity, False) if bias is None else (scale * similarity + bias, True)

    def _targets(self, data: EvaluationDataset) -> Int64[Tensor, "B C"]:
        """Return which of the named classes apply to the samples of this rank."""
        match = ClassMatch(data.class_names, self.data.class_names, data.name, self.data.name)
        ids = ids_of_rank(data, self.options)
        targets = multi_label_targets(data, ids, self.fields, len(self.class_names), match)
        nameless = [number for number, name in enumerate(self.class_names) if not name]
        if (wrong := (targets[:, nameless] == 1).nonzero()).numel():
            row, column = wrong[0].tolist()
            raise DataError(
                f"{data.name}: sample {ids[row]} has class {nameless[column]}, which has no name; "
                f"name it in classnames.txt, or next to its number in the table"
            )
        return targets[:, self._columns]
