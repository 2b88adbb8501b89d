"""Calibration against torchmetrics, plain loops and a search over a grid."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torchmetrics.functional import classification as oracle

from clipkit.errors import MetricError
from clipkit.metrics.calibration import confidences, fit_logit_scale, reliability


def made_up(num=400, num_classes=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num,), generator=generator)
    scores = torch.randn(num, num_classes, generator=generator)
    scores[torch.arange(num), labels] += 1
    return scores, labels


@pytest.mark.parametrize("num_bins", [1, 10, 15])
def test_the_error_is_that_of_torchmetrics(num_bins):
    scores, labels = made_up()
    correct = scores.argmax(1) == labels
    diagram = reliability(confidences(scores, 3.0).float(), correct, num_bins=num_bins)
    probabilities = (3 * scores).softmax(1)
    expected = oracle.multiclass_calibration_error(probabilities, labels, 6, n_bins=num_bins)
    assert diagram.error() == pytest.approx(float(expected), abs=1e-6)


def test_bins_are_those_of_a_loop_and_include_their_upper_edge():
    confidence = torch.tensor([0.0, 0.5, 0.50001, 1.0, 1.0])
    correct = torch.tensor([1, 0, 1, 1, 0])
    diagram = reliability(confidence, correct, num_bins=2)
    assert diagram.weight.tolist() == [2, 3]
    assert diagram.confidence.tolist() == pytest.approx([0.25, (0.50001 + 2) / 3])
    assert diagram.accuracy.tolist() == pytest.approx([0.5, 2 / 3])


def test_weights_are_numbers_of_predictions():
    scores, labels = made_up(50)
    confidence, correct = confidences(scores), scores.argmax(1) == labels
    weights = torch.arange(50) % 4
    rows = torch.arange(50).repeat_interleave(weights)
    weighted = reliability(confidence, correct, weights)
    repeated = reliability(confidence[rows], correct[rows])
    assert weighted.error() == pytest.approx(repeated.error())
    assert weighted.weight.tolist() == repeated.weight.tolist()


@pytest.mark.parametrize("wrong", [float("nan"), 1.1, -0.1])
def test_values_that_are_no_probabilities_are_refused(wrong):
    with pytest.raises(MetricError, match="probabilities from 0 to 1"):
        reliability(torch.tensor([wrong]), torch.tensor([1]))


@pytest.mark.parametrize("size", [1.0, 0.01, 100.0])
def test_the_fitted_factor_has_the_least_cross_entropy(size):
    scores, labels = made_up()
    scale = fit_logit_scale(scores * size, labels)

    def loss(factor):
        return float(F.cross_entropy(scores.double() * size * factor, labels))

    grid = torch.logspace(-3, 3, 2001, dtype=torch.float64) / size
    best = min(grid.tolist(), key=loss)
    assert scale == pytest.approx(best, rel=0.01)
    assert loss(scale) <= loss(best) + 1e-12


def test_a_calibration_without_an_optimum_takes_a_limit_with_a_warning(caplog):
    scores, labels = made_up()
    assert fit_logit_scale(F.one_hot(labels, 6).float(), labels) == 1e4
    assert "are classified correctly; using the lowest" in caplog.text
    assert fit_logit_scale(-scores, labels) == 1e-4
    assert "no better than chance; using the highest" in caplog.text
    with pytest.raises(MetricError, match="at least one image"):
        fit_logit_scale(scores[:0], labels[:0])
    for wrong in (torch.nan, torch.inf):
        with pytest.raises(MetricError, match="expected finite scores"):
            fit_logit_scale(torch.full_like(scores, wrong), labels)
