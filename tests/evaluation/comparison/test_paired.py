"""Paired differences and tests: against SciPy, by definition, and on data without a difference."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from clipkit.errors import DataError
from clipkit.evaluation import Outcomes
from clipkit.evaluation.comparison import (
    Resampling,
    aligned,
    class_changes,
    compare_outcomes,
    holm,
    mcnemar_p_value,
    metric_changes,
)
from clipkit.evaluation.comparison.compare import corrected
from clipkit.evaluation.comparison.paired import exact_p_values, permutation_p_values
from tests.helpers.records import CLASSES, classified

stats = pytest.importorskip("scipy.stats")


def means(values, groups=None):
    keys = tuple(f"image {n}" for n in range(len(values)))
    columns = {"score": torch.as_tensor(values, dtype=torch.float64)}
    return Outcomes("means", keys, tuple(groups or keys), columns)


def two_models(num_units=80, shift=0.15, seed=0):
    rng = np.random.default_rng(seed)
    difficulty = rng.normal(size=num_units)
    return (difficulty + rng.normal(0, 0.5, num_units) + s for s in (0, shift))


def test_permutation_test_is_that_of_scipy():
    first, second = two_models()
    (change,) = metric_changes(means(first), means(second), Resampling(replicates=2000))
    expected = stats.permutation_test(
        (first, second), lambda a, b, axis: np.mean(b, axis=axis) - np.mean(a, axis=axis),
        permutation_type="samples", n_resamples=20_000, vectorized=True, random_state=0,
    )  # fmt: skip
    assert change.test == "permutation"
    assert change.difference.value == pytest.approx(expected.statistic)
    error = math.sqrt(expected.pvalue / 2000)
    assert change.p_value == pytest.approx(expected.pvalue, abs=5 * error)


def test_interval_of_a_difference_is_that_of_scipy_and_uses_the_pairing():
    first, second = two_models(num_units=300)
    (change,) = metric_changes(means(first), means(second), Resampling(replicates=2000))
    expected = stats.bootstrap(
        (first, second), lambda a, b, axis: np.mean(b, axis=axis) - np.mean(a, axis=axis),
        paired=True, method="percentile", n_resamples=20_000, random_state=0,
    ).confidence_interval  # fmt: skip
    width = expected.high - expected.low
    assert change.difference.interval == pytest.approx(expected, abs=0.05 * width)
    alone = change.baseline.interval
    assert alone is not None
    assert alone[1] - alone[0] > 1.5 * width  # without the pairing


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 1), (3, 9), (40, 41), (900, 1100)])
def test_mcnemar_is_the_binomial_test(only_first, only_second):
    first = torch.tensor([True] * only_first + [False] * only_second + [True] * 5)
    second = torch.tensor([False] * only_first + [True] * only_second + [True] * 5)
    expected = stats.binomtest(only_first, only_first + only_second).pvalue
    assert mcnemar_p_value(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_p_value(first, first) == 1


def test_permutation_test_of_accuracy_approximates_mcnemar():
    first, second = classified(0.6, seed=1), classified(0.68, seed=2)
    exact = exact_p_values(first, second)
    assert set(exact) == {"top1", "top5"}
    changes = metric_changes(first, second, Resampling(replicates=100))
    differences = {change.name: change.difference.value for change in changes}
    permuted = permutation_p_values(first, second, differences, Resampling(replicates=2000))
    for name, p_value in exact.items():
        error = math.sqrt(p_value * (1 - p_value) / 2000)
        assert permuted[name] == pytest.approx(p_value, abs=4 * error + 0.001)
    tests = {change.name: change.test for change in changes}
    assert {name for name, test in tests.items() if test == "mcnemar"} == {"top1", "top5"}
    assert tests["mean_per_class_recall"] == "permutation"


def test_permutations_exchange_complete_groups():
    """With 4 groups there are 16 exchanges, so no p-value can be below 2 / 16."""
    groups = [f"patient {n % 4}" for n in range(200)]
    first, second = classified(0.2, groups=groups), classified(0.9, seed=1, groups=groups)
    (change, *_) = metric_changes(first, second, Resampling(replicates=400))
    assert change.test == "permutation"
    assert change.p_value == pytest.approx(2 / 16, abs=0.05)


def test_models_that_differ_by_noise_rarely_differ_clearly():
    """The rate of false alarms at 5 % is 5 %, within three standard errors of 100 comparisons."""
    rng, alarms = np.random.default_rng(3), 0
    groups = [f"{n // 3}" for n in range(90)]
    for seed in range(100):
        of_group = rng.normal(size=(2, 30)).repeat(3, axis=1)
        first, second = of_group + rng.normal(0, 0.3, (2, 90))
        change = permutation_p_values(
            means(first, groups), means(second, groups),
            {"score": float(np.mean(second) - np.mean(first))},
            Resampling(replicates=100, seed=seed),
        )  # fmt: skip
        alarms += change["score"] < 0.05
    assert alarms <= 5 + 3 * math.sqrt(100 * 0.05 * 0.95)


def test_the_same_outcomes_are_no_change():
    outcomes = classified(0.7)
    for change in metric_changes(outcomes, outcomes, Resampling(replicates=100)):
        assert (change.difference.value, change.p_value, change.is_noise) == (0, 1, True)
        assert change.difference.interval is None
        assert change.verdict == "noise"


def test_units_are_matched_by_key():
    first, second = classified(0.5), classified(0.8, seed=1)
    order = torch.randperm(len(second), generator=torch.Generator().manual_seed(0))
    shuffled = replace(
        second,
        keys=tuple(second.keys[n] for n in order),
        groups=tuple(second.groups[n] for n in order),
        columns={name: column[order] for name, column in second.columns.items()},
    )
    back = aligned(first, shuffled, ("a", "b"))
    assert back.keys == second.keys
    assert all(torch.equal(back.columns[name], c) for name, c in second.columns.items())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: classified(0.5, num_images=150), "got 150, of which 150 are shared"),
        (lambda o: replace(o, keys=tuple(f"x{k}" for k in o.keys)), "of which 0 are shared"),
        (lambda o: replace(o, class_names=o.class_names[:-1]), "the 6 class names of a, got 5"),
        (lambda o: replace(o, class_names=(*CLASSES[:-1], "boat")), "'boat' in place of 'ship'"),
        (lambda o: replace(o, kind="means"), "expected outcomes of the kind 'classification'"),
        (lambda o: replace(o, groups=("x",) * len(o)), "the groups of a, got others for 200"),
        (lambda o: replace(o, columns=o.columns | {"label": 5 - o.columns["label"]}), "classes"),
        (lambda o: replace(o, prefix="head/"), "head/classification"),
    ],
)  # fmt: skip
def test_other_data_are_refused(change, message):
    outcomes = classified(0.5)
    with pytest.raises(DataError, match=message):
        compare_outcomes([outcomes], [change(outcomes)], ("a", "b"))


def test_recall_of_each_class():
    first, second = classified(0.3, seed=1), classified(0.9, seed=2)
    changes = class_changes(first, second)
    assert [change.name for change in changes] == list(CLASSES)
    for number, change in enumerate(changes):
        rows = first.columns["label"] == number
        recalls = [(part.columns["rank"][rows] == 0).double().mean() for part in (first, second)]
        assert change.baseline.value == pytest.approx(recalls[0])
        assert change.model.value == pytest.approx(recalls[1])
        assert change.num_units == int(rows.sum())
        hits = [part.columns["rank"][rows] == 0 for part in (first, second)]
        assert change.p_value == mcnemar_p_value(*hits)
        interval = change.difference.interval
        assert interval is not None
        assert interval[0] <= change.difference.value <= interval[1]


def test_classes_of_grouped_units_are_tested_by_group():
    groups = [f"patient {n // 20}" for n in range(200)]
    first, second = classified(0.3, groups=groups), classified(0.9, seed=1, groups=groups)
    changes = class_changes(first, second)
    assert {change.test for change in changes} == {"permutation"}
    assert all(2 / 2**10 * 0.3 < change.p_value < 0.1 for change in changes)


def test_a_class_that_does_not_occur_is_left_out():
    names = (*CLASSES, "unicorn")
    first, second = (
        replace(classified(a, seed=s), class_names=names) for a, s in ((0.4, 1), (0.6, 2))
    )
    assert "unicorn" not in {change.name for change in class_changes(first, second)}


def test_holm_by_its_definition():
    p_values = np.random.default_rng(0).random(12) ** 3
    for level in (0.01, 0.05, 0.2):
        rejected, order = set(), np.argsort(p_values)
        for place, number in enumerate(order):
            if p_values[number] > level / (len(p_values) - place):
                break
            rejected.add(number)
        assert {n for n, p in enumerate(holm(list(p_values))) if p <= level} == rejected
    assert holm([]) == []
    assert np.isnan(holm([0.01, math.nan])[1])
    assert holm([0.01, math.nan])[0] == 0.01


def test_corrections_count_primary_metrics_other_metrics_and_classes_apart():
    pairs = [
        compare_outcomes(
            [classified(0.5)], [classified(0.62, seed=s)], ("a", "b"), primary_metric="top1",
            data=f"data {s}", resampling=Resampling(replicates=100),
        )
        for s in (1, 2, 3)
    ]  # fmt: skip
    result = corrected(pairs, Resampling(replicates=100))
    primary = [pair.metrics[0].p_value for pair in pairs]
    assert [pair.metrics[0].corrected_p_value for pair in result] == holm(primary)
    for before, after in zip(pairs, result, strict=True):
        expected = holm([change.p_value for change in before.metrics[1:]])
        assert [change.corrected_p_value for change in after.metrics[1:]] == expected
        noise = [change.is_noise for change in after.classes]
        assert noise == sorted(noise)
        by_name = {change.name: change.corrected_p_value for change in after.classes}
        expected = holm([change.p_value for change in before.classes])
        assert [by_name[change.name] for change in before.classes] == expected


def test_a_metric_that_is_not_defined_is_noise():
    first, second = means([math.nan, math.nan]), means([math.nan, math.nan])
    (change,) = metric_changes(first, second)
    assert change.is_noise
    assert change.verdict == "noise"


def test_lower_values_are_better_where_they_are():
    keys = tuple(map(str, range(50)))
    ranks = torch.arange(50, dtype=torch.float64)
    first, second = (Outcomes("means", keys, keys, {"mean_rank": r}) for r in (ranks, ranks + 5))
    (change,) = metric_changes(first, second)
    assert change.verdict == "worse"
    assert not change.is_share
