"""Create evaluators by the name of a task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

from clipkit.data import CaptionPicker
from clipkit.data.modalities.field import ModalityField
from clipkit.errors import ConfigError
from clipkit.evaluation.correct_pairs import RetrievalOptions
from clipkit.evaluation.datasets.choice_sources import ChoiceColumns, open_choices
from clipkit.evaluation.datasets.dataset import CAPTION_LANGUAGE, EvaluationDataset
from clipkit.evaluation.datasets.opening import open_dataset
from clipkit.evaluation.datasets.queries import IMAGES, query_modality
from clipkit.evaluation.evaluators.association import ImageAssociation
from clipkit.evaluation.evaluators.base import Evaluator
from clipkit.evaluation.evaluators.fairness import GroupFairness
from clipkit.evaluation.evaluators.joint.classification import JointClassification
from clipkit.evaluation.evaluators.joint.dialogue import DialogueRanking
from clipkit.evaluation.evaluators.joint.question_answering import QuestionAnswering
from clipkit.evaluation.evaluators.label_head import LabelHeadClassification
from clipkit.evaluation.evaluators.multi_label import MultiLabelClassification
from clipkit.evaluation.evaluators.pair_choice import PairChoice
from clipkit.evaluation.evaluators.retrieval import Retrieval
from clipkit.evaluation.evaluators.robustness import CorruptionRobustness
from clipkit.evaluation.evaluators.translation import CaptionTranslation
from clipkit.evaluation.evaluators.zero_shot import ZeroShotClassification
from clipkit.evaluation.evaluators.zero_shot_multi_label import ZeroShotMultiLabel
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.probes.options import PROBES, ProbeOptions, make_probe
from clipkit.evaluation.probes.splits import ProbeSplits
from clipkit.evaluation.task_options import RobustnessOptions, ZeroShotOptions
from clipkit.renamed_arguments import renamed_arguments
from clipkit.suggestions import did_you_mean

TASKS: Final = (
    "retrieval", "zero-shot", "label-head", "multi-label", "linear-probe", "nearest-neighbours",
    "few-shot", "pair-choice", "zero-shot-multi-label", "corruptions",
    "multi-label-probe", "fairness", "association", "translation",
    "joint-classification", "question-answering", "dialogue",
)  # fmt: skip
"""Names of the tasks."""

_OF_FUSION: Final = ("joint-classification", "question-answering", "dialogue")
"""Tasks of the fusion of a joint encoder."""

_OF_ANY_MODALITY: Final = (
    "zero-shot",
    "zero-shot-multi-label",
    "label-head",
    "multi-label",
    *PROBES,
)
"""Tasks that measure samples of any modality, not only images."""


@renamed_arguments(
    {
        "train_split": "probe=ProbeOptions(train_split=...)",
        "widths": "correct=RetrievalOptions(widths=...)",
    }
)
def make_evaluator(
    task: str,
    source: str | Path,
    split: str = "test",
    *,
    probe: ProbeOptions = ProbeOptions(),
    caption: CaptionPicker | None = None,
    label_field: str = "cls",
    allow_outside: bool = False,
    modality: str | ModalityField = IMAGES.name,
    correct: RetrievalOptions = RetrievalOptions(),
    zero_shot: ZeroShotOptions = ZeroShotOptions(),
    choice: ChoiceColumns | None = None,
    robustness: RobustnessOptions = RobustnessOptions(),
    options: EmbedOptions = EmbedOptions(),
) -> Evaluator:
    """Create the evaluator of a task.

    Args:
        task: One of ``TASKS``.
        source: Evaluation data, as for ``open_dataset``.
        split: Folder inside ``source`` to evaluate on.
        probe: Splits, groups and numbers of the tasks that fit a classifier.
        caption: Finds the captions of a sample; None for the lines of its ``.txt``.
        label_field: Where the class of a sample is: a member ("cls") or a field of a JSON member
            ("json:category"). For several classes per image, "cls" means "npy" in CLIP_benchmark's
            data of that type, otherwise "json:labels"; for answers to questions "json:answers" or
            "json:answer".
        allow_outside: Whether the images of a table or folder may be outside of its folder.
        modality: What the samples are: "image", "sound", or the field that reads another modality.
        correct: Which candidates of a retrieval are correct, groups of queries, and widths.
        zero_shot: Options of zero-shot classification: class names, templates, groups, calibration.
        choice: Columns of a table of the task "pair-choice"; None to recognise them.
        robustness: Classifier of the tasks "corruptions" and "fairness", and the corruptions.
        options: How embeddings are computed.

    Raises:
        ConfigError: If the task is unknown, or does not measure the modality.
        DataError: If the data cannot be found or do not fit the task.

    Examples:
        >>> make_evaluator("retrieval", "data/val").primary_metric
        'text_to_image/recall_at_1'
    """
    _check_task(task, modality)
    if task in PROBES:
        return _probe(task, source, split, probe, label_field, allow_outside, modality, options)
    if task == "pair-choice":
        choices = open_choices(source, split, choice, allow_outside)
        return PairChoice(choices, options=options)
    if task == "association":
        return ImageAssociation(source, options=options, allow_outside=allow_outside)
    data = open_dataset(
        source, split, caption=caption, allow_outside=allow_outside, modality=modality,
        label_field="cls" if task == "question-answering" else label_field,
    )  # fmt: skip
    if task in _OF_FUSION:
        return _of_fusion(task, data, label_field, options)
    if task in ("multi-label", "zero-shot-multi-label"):
        return _multi_label(task, data, label_field, zero_shot, options)
    if task in ("retrieval", "translation"):
        return _retrieval(task, data, correct, options)
    if task == "fairness":
        return _fairness(robustness.classifier, data, zero_shot, options)
    if task == "corruptions":
        classifier = _classifier(robustness.classifier, data, zero_shot, options)
        return CorruptionRobustness(classifier, robustness.corruptions, robustness.strengths)
    return _classifier(task, data, zero_shot, options)


def _check_task(task: str, modality: str | ModalityField) -> None:
    """Refuse an unknown task, and one that does not measure the modality."""
    if task not in TASKS:
        raise ConfigError(
            f"task: expected one of {', '.join(TASKS)}, got {task!r}{did_you_mean(task, TASKS)}"
        )
    name = query_modality(modality).name
    if name != IMAGES.name and task not in _OF_ANY_MODALITY:
        raise ConfigError(
            f"modality: the task {task!r} measures "
            f"{'all modalities at once' if task == 'retrieval' else 'images'}, got {name!r}; the "
            f"tasks {', '.join(_OF_ANY_MODALITY)} measure others"
        )


def _probe(
    task: str,
    source: str | Path,
    split: str,
    probe: ProbeOptions,
    label_field: str,
    allow_outside: bool,
    modality: str | ModalityField,
    options: EmbedOptions,
) -> Evaluator:
    several = task == "multi-label-probe"
    splits = ProbeSplits(
        source, split, probe.train_split, probe.validation_split,
        "cls" if several else label_field,
        probe.group_field, allow_outside, probe.allow_overlap, modality,
    )  # fmt: skip
    return make_probe(task, splits, probe, options, _positives(label_field) if several else None)


def _multi_label(
    task: str,
    data: EvaluationDataset,
    label_field: str,
    zero_shot: ZeroShotOptions,
    options: EmbedOptions,
) -> MultiLabelClassification | ZeroShotMultiLabel:
    if task == "multi-label":
        return MultiLabelClassification(
            data, positives=_positives(label_field), options=options,
            calibration_split=zero_shot.calibration_split, thresholds=zero_shot.thresholds,
            hold_out_by=zero_shot.hold_out_by,
        )  # fmt: skip
    return ZeroShotMultiLabel(
        data, class_names=zero_shot.class_names, templates=zero_shot.templates,
        positives=_positives(label_field), options=options,
        calibration_split=zero_shot.calibration_split, thresholds=zero_shot.thresholds,
        hold_out_by=zero_shot.hold_out_by, facts=zero_shot.facts,
    )  # fmt: skip


def _retrieval(
    task: str, data: EvaluationDataset, correct: RetrievalOptions, options: EmbedOptions
) -> Retrieval | CaptionTranslation:
    if task == "retrieval":
        return Retrieval(data, options=options, correct=correct)
    field = correct.group_field or CAPTION_LANGUAGE
    return CaptionTranslation(
        data, options=options, language_field=field, merge_captions=correct.merge_captions
    )


def _of_fusion(
    task: str, data: EvaluationDataset, label_field: str, options: EmbedOptions
) -> JointClassification | QuestionAnswering | DialogueRanking:
    if task == "dialogue":
        return DialogueRanking(data, options=options)
    if task == "joint-classification":
        return JointClassification(data, options=options)
    answers = None if label_field == "cls" else label_field
    return QuestionAnswering(data, answer_field=answers, options=options)


def _positives(label_field: str) -> str | None:
    """Return the field with the classes of an image; None for that of the data's type."""
    return None if label_field == "cls" else label_field


def _fairness(
    classifier: str, data: EvaluationDataset, zero_shot: ZeroShotOptions, options: EmbedOptions
) -> GroupFairness:
    if zero_shot.group_field is None:
        raise ConfigError(
            "fairness: expected the field with the group of an image, such as json:region "
            "(--group-field, or ZeroShotOptions(group_field=...)), got none"
        )
    without_groups = replace(zero_shot, group_field=None)
    return GroupFairness(
        _classifier(classifier, data, without_groups, options), zero_shot.group_field
    )


def _classifier(
    task: str, data: EvaluationDataset, zero_shot: ZeroShotOptions, options: EmbedOptions
) -> ZeroShotClassification | LabelHeadClassification:
    if task == "label-head":
        return LabelHeadClassification(data, options=options)
    return ZeroShotClassification(
        data, class_names=zero_shot.class_names, templates=zero_shot.templates, options=options,
        group_field=zero_shot.group_field, calibration_split=zero_shot.calibration_split,
        hold_out_by=zero_shot.hold_out_by, facts=zero_shot.facts,
    )  # fmt: skip
