"""Metrics of several classes per image, with thresholds that were fitted on other images."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.class_names import listed_names
from clipkit.errors import ConfigError, check_choice
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.leaks import groups_of, refuse_leaks
from clipkit.evaluation.inference import EmbedOptions
from clipkit.evaluation.outcomes.metrics import outcome_metrics
from clipkit.evaluation.outcomes.multi_label import multi_label_outcomes
from clipkit.evaluation.outcomes.outcomes import Evaluation
from clipkit.metrics.thresholds import THRESHOLDS, fit_thresholds
from clipkit.types import IGNORE_LABEL

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MultiLabelPredictions:
    """Scores and true classes of images that may have several classes.

    Args:
        scores: Score of each class for each image.
        targets: 1 where a class applies, 0 where it does not, ``IGNORE_LABEL`` where it is unknown.
        class_names: Name of each column; C distinct names.
        keys: Name of each image.
        decide: Whether a class is predicted where its score is above 0; otherwise the scores have
            no threshold of their own.
    """

    scores: Float[Tensor, "N C"]
    targets: Int64[Tensor, "N C"]
    class_names: tuple[str, ...]
    keys: tuple[str, ...]
    decide: bool


def calibration_of(
    data: EvaluationDataset, split: str | None, thresholds: str
) -> EvaluationDataset | None:
    """Open the calibration split, if there is one.

    Raises:
        ConfigError: If the kind of thresholds is unknown, or needs a calibration split.
        DataError: If the split has files of the split that is measured.
    """
    check_choice("thresholds", thresholds, THRESHOLDS)
    if split is None and thresholds != THRESHOLDS[0]:
        raise ConfigError(
            f"thresholds: {thresholds} ones are fitted; expected a calibration split "
            f"(calibration_split, or --calibration-split)"
        )
    return None if split is None else data.with_split(split)


def evaluate_decisions(
    predict: Callable[[EvaluationDataset], MultiLabelPredictions],
    data: EvaluationDataset,
    calibration: EvaluationDataset | None,
    thresholds: str,
    options: EmbedOptions,
    hold_out_by: str | None = None,
) -> Evaluation:
    """Measure predictions, after fitting thresholds if there is a calibration split.

    Args:
        predict: Function that predicts the classes of a split.
        data: Split that is measured.
        calibration: Split that thresholds are fitted on; None for none.
        thresholds: "global" or "per-class".
        options: The limit on the number of samples.
        hold_out_by: Field with the group of each image, such as "json:patient_id"; None if images
            are independent of one another.

    Returns:
        The metrics, the outcome of each image, and as details the number of images of each class,
        and its threshold.

    Raises:
        DataError: If the splits have image files or groups in common.
    """
    test = predict(data)
    _report_left_out(test, data.name)
    values = torch.zeros(test.scores.shape[1])
    predicted = test.scores > values if test.decide else None
    positives = (test.targets == 1).sum(0).tolist()
    details = {f"positives/{name}": n for name, n in zip(test.class_names, positives, strict=True)}
    if calibration is not None:
        fitted_on = predict(calibration)
        refuse_leaks((calibration, fitted_on.keys), (data, test.keys), options, hold_out_by)
        fitted = fit_thresholds(fitted_on.scores, fitted_on.targets, thresholds)
        _report(fitted.without_own, test.class_names, calibration.name)
        predicted = test.scores >= fitted.values
        names = (f"threshold/{name}" for name in test.class_names)
        details |= zip(names, fitted.values.tolist(), strict=True)
    groups = None if hold_out_by is None else groups_of(data, hold_out_by, test.keys)
    outcomes = multi_label_outcomes(
        test.scores, test.targets, test.keys, test.class_names, predicted, groups
    )
    return Evaluation(outcome_metrics(outcomes), (outcomes,), details)


def _report_left_out(predictions: MultiLabelPredictions, data_name: str) -> None:
    unknown = (predictions.targets == IGNORE_LABEL).all(1).nonzero().flatten().tolist()
    if unknown:
        _LOG.warning(
            "%s: %d of %d images have no list of classes and are left out (first: %s)",
            data_name, len(unknown), len(predictions.keys), predictions.keys[unknown[0]],
        )  # fmt: skip


def _report(without_own: Sequence[int], class_names: Sequence[str], data_name: str) -> None:
    if without_own:
        _LOG.warning(
            "%s: %d classes apply to none or all of the calibration images (%s); they get the "
            "global threshold",
            data_name, len(without_own), listed_names([class_names[n] for n in without_own]),
        )  # fmt: skip
