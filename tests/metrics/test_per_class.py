"""Scores of every class against torchmetrics, and what torchmetrics leaves open."""

from __future__ import annotations

import math

import pytest
import torch
from torchmetrics.functional import classification as oracle

from clipkit.errors import MetricError
from clipkit.metrics.per_class import (
    average_precisions,
    chosen_classes,
    class_scores,
    confusion_matrix,
    mean_average_precision,
)
from clipkit.types import IGNORE_LABEL


def made_up(num: int = 200, num_classes: int = 5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, num_classes, (num,), generator=generator)
    scores = torch.randn(num, num_classes, generator=generator)
    scores[torch.arange(num), labels] += 1
    return scores, labels


def test_confusions_and_scores_are_those_of_torchmetrics():
    scores, labels = made_up()
    chosen = chosen_classes(scores, labels)
    confusion = confusion_matrix(chosen, labels, 5)
    ours = class_scores(confusion)

    assert torch.equal(chosen, scores.argmax(1))
    assert torch.equal(confusion, oracle.multiclass_confusion_matrix(chosen, labels, 5))
    for name in ("precision", "recall", "f1"):
        function = getattr(oracle, f"multiclass_{name}{'_score' if name == 'f1' else ''}")
        expected = function(chosen, labels, num_classes=5, average="none")
        torch.testing.assert_close(getattr(ours, name).float(), expected)
        macro = function(chosen, labels, num_classes=5, average="macro")
        assert ours.macro()[f"macro_{name}"] == pytest.approx(float(macro), abs=1e-6)


def test_a_tie_is_never_a_win():
    scores = torch.zeros(4, 3)
    labels = torch.tensor([0, 1, 2, 0])
    assert (chosen_classes(scores, labels) != labels).all()


def test_a_class_that_does_not_occur_is_left_out_of_the_means():
    scores = class_scores(torch.tensor([[3, 0, 1], [0, 4, 0], [0, 0, 0]]))
    assert math.isnan(scores.recall[2])
    assert scores.macro()["macro_recall"] == pytest.approx((0.75 + 1) / 2)
    assert scores.macro()["macro_precision"] == 1.0
    with pytest.raises(MetricError, match="at least one sample"):
        class_scores(torch.zeros(2, 2, dtype=torch.int64)).macro()


def test_average_precision_is_that_of_torchmetrics_with_ties_and_unknowns():
    scores, _ = made_up(120, 4, seed=1)
    scores = (scores * 2).round() / 2  # many ties
    targets = (torch.rand(120, 4, generator=torch.Generator().manual_seed(2)) < 0.3).long()
    targets[::7, 1] = IGNORE_LABEL
    ours = average_precisions(scores, targets)
    for column in range(4):
        known = targets[:, column] != IGNORE_LABEL
        probabilities = scores[known, column].sigmoid()
        expected = oracle.binary_average_precision(probabilities, targets[known, column])
        assert float(ours[column]) == pytest.approx(float(expected), abs=1e-6)
    assert mean_average_precision(scores, targets) == pytest.approx(float(ours.mean()))


def test_a_class_without_a_positive_is_left_out():
    scores = torch.tensor([[0.9, 0.1], [0.1, 0.2]])
    targets = torch.tensor([[1, 0], [0, 0]])
    assert mean_average_precision(scores, targets) == 1.0
    with pytest.raises(MetricError, match="applies to a sample"):
        mean_average_precision(scores, torch.zeros(2, 2, dtype=torch.int64))


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        (torch.zeros(2, 2), torch.zeros(2, 3, dtype=torch.int64), "expected both"),
        (torch.full((1, 1), torch.nan), torch.ones(1, 1, dtype=torch.int64), "NaN"),
        (torch.zeros(1, 1), torch.full((1, 1), 2), "got 2"),
    ],
)
def test_what_cannot_be_scored_is_said(scores, targets, message):
    with pytest.raises(MetricError, match=message):
        average_precisions(scores, targets)
