"""Outcomes of several classes per image against torchmetrics, loops, and drawing with weights."""

import math

import pytest
import torch
from torchmetrics.functional import classification as oracle

from clipkit.errors import MetricError
from clipkit.evaluation import load_outcomes, outcome_metrics, save_outcomes
from clipkit.evaluation.outcomes.multi_label import multi_label_outcomes
from clipkit.metrics.per_class import average_precisions
from clipkit.types import IGNORE_LABEL

NAMES = [f"class {n}" for n in range(5)]


def made_up(num=120, seed=0, ties=True):
    generator = torch.Generator().manual_seed(seed)
    targets = (torch.rand(num, 5, generator=generator) < 0.3).long()
    scores = torch.randn(num, 5, generator=generator) + targets
    return (scores.mul(3).round() / 3 if ties else scores), targets


def outcomes_of(scores, targets, threshold=0.5):
    keys = [f"image {n}" for n in range(len(scores))]
    return multi_label_outcomes(scores, targets, keys, NAMES, scores >= threshold)


@pytest.mark.parametrize("ties", [False, True])
def test_metrics_are_those_of_torchmetrics(ties):
    scores, targets = made_up(ties=ties)
    metrics = outcome_metrics(outcomes_of(scores, targets))
    probabilities, given = scores.sigmoid().double(), {"num_labels": 5}
    cut = float(torch.tensor(0.5).sigmoid()) - 1e-9
    names = {
        "macro_auroc": oracle.multilabel_auroc(probabilities, targets, **given),
        "mean_average_precision": oracle.multilabel_average_precision(
            probabilities, targets, **given
        ),
        "micro_average_precision": oracle.multilabel_average_precision(
            probabilities, targets, average="micro", **given
        ),
        "exact_match": oracle.multilabel_exact_match(
            probabilities, targets, threshold=cut, **given
        ),
    }
    for average in ("micro", "macro"):
        names[f"{average}_f1"] = oracle.multilabel_f1_score(
            probabilities, targets, average=average, threshold=cut, **given
        )
    for name in ("precision", "recall"):
        names[f"micro_{name}"] = getattr(oracle, f"multilabel_{name}")(
            probabilities, targets, average="micro", threshold=cut, **given
        )
    assert {name: metrics[name] for name in names} == pytest.approx(
        {name: float(value) for name, value in names.items()}, abs=1e-6
    )
    by_class = oracle.multilabel_auroc(probabilities, targets, average="none", **given)
    assert [metrics[f"auroc/{name}"] for name in NAMES] == pytest.approx(
        by_class.tolist(), abs=1e-6
    )
    precisions = average_precisions(scores, targets).tolist()
    assert [metrics[f"average_precision/{name}"] for name in NAMES] == pytest.approx(precisions)


def test_weights_are_numbers_of_draws():
    scores, targets = made_up()
    targets[::5, 2] = IGNORE_LABEL
    weights = torch.randint(3, (120,), generator=torch.Generator().manual_seed(1))
    rows = torch.arange(120).repeat_interleave(weights)
    weighted = outcome_metrics(outcomes_of(scores, targets), weights)
    assert weighted == pytest.approx(outcome_metrics(outcomes_of(scores[rows], targets[rows])))


def test_unknown_classes_count_nowhere():
    scores, targets = made_up(40)
    targets[10:20, 1] = IGNORE_LABEL
    targets[0] = IGNORE_LABEL
    outcomes = outcomes_of(scores, targets)
    metrics = outcome_metrics(outcomes)
    assert len(outcomes) == 39
    known = targets[:, 1] != IGNORE_LABEL
    alone = outcome_metrics(
        multi_label_outcomes(
            scores[known, 1:2], targets[known, 1:2], list(map(str, range(int(known.sum())))), ["x"],
            scores[known, 1:2] >= 0.5,
        )
    )  # fmt: skip
    for name in ("average_precision", "auroc", "f1"):
        assert metrics[f"{name}/class 1"] == pytest.approx(alone[f"{name}/x"])
    right = ((scores >= 0.5) == (targets == 1)) | (targets == IGNORE_LABEL)
    assert metrics["exact_match"] == pytest.approx(float(right[1:].all(1).double().mean()))


def test_classes_without_images_and_without_other_images():
    scores, targets = made_up(30)
    targets[:, 0], targets[:, 1] = 0, 1
    metrics = outcome_metrics(outcomes_of(scores, targets))
    assert "average_precision/class 0" not in metrics
    assert metrics["average_precision/class 1"] == 1
    assert {name for name in metrics if name.startswith("auroc/")} == {
        f"auroc/class {n}" for n in (2, 3, 4)
    }
    own = [metrics[f"auroc/class {n}"] for n in (2, 3, 4)]
    assert metrics["macro_auroc"] == pytest.approx(sum(own) / 3)
    own = [metrics[f"f1/class {n}"] for n in (1, 2, 3, 4)]
    assert metrics["macro_f1"] == pytest.approx(sum(own) / 4)


def test_a_bootstrap_without_a_class_has_no_value_for_it():
    scores, targets = made_up(30)
    metrics = outcome_metrics(outcomes_of(scores, targets), (targets[:, 3] == 0).long())
    assert math.isnan(metrics["average_precision/class 3"])
    assert not math.isnan(metrics["mean_average_precision"])


def test_equal_scores_are_worth_a_coin():
    targets = made_up(60)[1]
    metrics = outcome_metrics(outcomes_of(torch.zeros(60, 5), targets))
    assert metrics["macro_auroc"] == 0.5
    shares = [float(targets[:, n].double().mean()) for n in range(5)]
    assert metrics["mean_average_precision"] == pytest.approx(sum(shares) / 5)


def test_files_keep_the_outcomes_and_thresholds_are_optional(tmp_path):
    scores, targets = made_up(20)
    outcomes = multi_label_outcomes(scores, targets, list(map(str, range(20))), NAMES)
    save_outcomes(tmp_path / "o.npz", [outcomes, outcomes_of(scores, targets)])
    first, second = load_outcomes(tmp_path / "o.npz")
    assert outcome_metrics(first) == outcome_metrics(outcomes)
    assert "micro_f1" not in outcome_metrics(first)
    assert outcome_metrics(second) == outcome_metrics(outcomes_of(scores, targets))


def test_wrong_values_are_refused():
    scores, targets = made_up(20)
    with pytest.raises(MetricError, match="NaN"):
        outcomes_of(scores.where(scores > 0, torch.nan), targets)
    with pytest.raises(MetricError, match="got 2"):
        outcomes_of(scores, targets * 2)
    with pytest.raises(MetricError, match="expected both"):
        outcomes_of(scores[:, :4], targets)
    with pytest.raises(MetricError, match="got none"):
        outcomes_of(scores, targets * 0)
