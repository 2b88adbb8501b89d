"""Thresholds against a search over all of them."""

from __future__ import annotations

import pytest
import torch
from torchmetrics.functional.classification import multilabel_f1_score

from clipkit.errors import ConfigError, MetricError
from clipkit.metrics.thresholds import fit_thresholds
from clipkit.types import IGNORE_LABEL


def made_up(num=80, num_classes=4, seed=0):
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(num, num_classes, generator=generator) < 0.3).long()
    scores = (torch.randn(num, num_classes, generator=generator) + targets).mul(4).round() / 4
    return scores, targets


def f1(scores, targets, threshold):
    known = targets != IGNORE_LABEL
    chosen = (scores >= threshold) & known
    hits = int((chosen & (targets == 1)).sum())
    return 2 * hits / (int(chosen.sum()) + int((targets == 1).sum()))


def searched(scores, targets):
    candidates = sorted(set(scores[targets != IGNORE_LABEL].tolist()), reverse=True)
    return max(candidates, key=lambda threshold: f1(scores, targets, threshold))


@pytest.mark.parametrize("seed", range(5))
def test_each_threshold_has_the_greatest_f1(seed):
    scores, targets = made_up(seed=seed)
    targets[::7, 1] = IGNORE_LABEL
    everywhere = fit_thresholds(scores, targets)
    assert everywhere.values.tolist() == [searched(scores, targets)] * 4
    own = fit_thresholds(scores, targets, "per-class")
    expected = [searched(scores[:, c : c + 1], targets[:, c : c + 1]) for c in range(4)]
    assert own.values.tolist() == expected
    assert own.without_own == ()


def test_f1_at_the_threshold_is_that_of_torchmetrics():
    scores, targets = made_up()
    values = fit_thresholds(scores, targets, "per-class").values
    got = multilabel_f1_score((scores >= values).long(), targets, 4, average="none")
    best = [f1(scores[:, [c]], targets[:, [c]], float(values[c])) for c in range(4)]
    assert got.tolist() == pytest.approx(best)


def test_a_class_that_is_missing_in_the_calibration_split_gets_the_global_threshold():
    scores, targets = made_up()
    targets[:, 1], targets[:, 2] = 0, 1
    fitted = fit_thresholds(scores, targets, "per-class")
    everywhere = fit_thresholds(scores, targets).values
    assert fitted.without_own == (1, 2)
    assert fitted.values[[1, 2]].tolist() == everywhere[[1, 2]].tolist()
    assert fitted.values[0] == searched(scores[:, :1], targets[:, :1])


def test_what_cannot_be_fitted_is_refused():
    scores, targets = made_up()
    for wrong in (torch.zeros_like(targets), torch.ones_like(targets), targets[:0]):
        with pytest.raises(MetricError, match="got only one kind"):
            fit_thresholds(scores[: len(wrong)], wrong)
    with pytest.raises(MetricError, match="NaN"):
        fit_thresholds(torch.full_like(scores, torch.nan), targets)
    with pytest.raises(ConfigError, match="expected one of global, per-class, got 'own'"):
        fit_thresholds(scores, targets, "own")
