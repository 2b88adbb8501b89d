"""Options of tasks that are created by their names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clipkit.errors import check_choice
from clipkit.evaluation.corruptions.kinds import CORRUPTIONS, STRENGTHS
from clipkit.evaluation.prompts.class_prompts import Templates

CLASSIFIERS: Final = ("zero-shot", "label-head")
"""Tasks whose predictions other tasks measure."""


@dataclass(frozen=True)
class ZeroShotOptions:
    """Options of classification without training; see ``ZeroShotClassification``.

    Args:
        class_names: Names in the order of class numbers, "imagenet", or a file; None for those of
            the data.
        templates: A name of ``TEMPLATE_LISTS``, a file, templates, or prompts of each class; None
            for those of the data.
        group_field: Field with the group of each image, such as "json:region"; None for no groups.
        calibration_split: Split on which a temperature (one class per image) or thresholds (several
            classes) are fitted; None for none.
        thresholds: Kind of the fitted thresholds: "global" or "per-class".
        hold_out_by: Field with the group of each image, such as "json:patient_id": intervals draw
            complete groups, and a group must not be in both splits. None if images are independent.
        facts: Table of facts, whose definitions are added to the prompts; see
            ``FactTable.from_file``. None for none.

    Examples:
        >>> make_evaluator("zero-shot", "data/val", zero_shot=ZeroShotOptions(templates="openai"))
        <clipkit.evaluation.evaluators.zero_shot.ZeroShotClassification object at ...>
    """

    class_names: str | Sequence[str] | None = None
    templates: Templates | None = None
    group_field: str | None = None
    calibration_split: str | None = None
    thresholds: str = "global"
    hold_out_by: str | None = None
    facts: str | None = None


@dataclass(frozen=True)
class RobustnessOptions:
    """Options of the tasks "corruptions" and "fairness"; see ``CorruptionRobustness``.

    Args:
        classifier: Task whose predictions are measured: "zero-shot" or "label-head".
        corruptions: Names of the corruptions.
        strengths: Strengths, from 1 to 5.

    Raises:
        ConfigError: If the classifier is another task.

    Examples:
        >>> options = RobustnessOptions(strengths=(3,))
        >>> make_evaluator("corruptions", "data/val", robustness=options).primary_metric
        'corrupted/top1'
    """

    classifier: str = "zero-shot"
    corruptions: Sequence[str] = tuple(CORRUPTIONS)
    strengths: Sequence[int] = STRENGTHS

    def __post_init__(self) -> None:
        check_choice("classifier", self.classifier, CLASSIFIERS)
