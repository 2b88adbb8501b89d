"""Bootstrap intervals: reproducible, by group, equal to SciPy's, and they cover the true value."""

import math

import numpy as np
import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.evaluation import Outcomes, outcome_metrics
from clipkit.evaluation.comparison import Resampling, metric_intervals, resampling
from clipkit.evaluation.comparison.intervals import metric_samples, percentile_interval
from clipkit.evaluation.comparison.resampling import bootstrap_weights, random_swaps
from clipkit.evaluation.outcomes.classification import classification_outcomes
from clipkit.metrics.direction import lower_is_better


def means(values, groups=None):
    keys = tuple(f"image {n}" for n in range(len(values)))
    columns = {"acc": torch.as_tensor(values, dtype=torch.float64)}
    return Outcomes("means", keys, tuple(groups or keys), columns)


@pytest.mark.parametrize("at_once", [1, 30, 2**16])
def test_draws_are_the_same_on_every_machine(monkeypatch, at_once):
    """The raw numbers of a generator in their order, however many are drawn together."""
    monkeypatch.setattr(resampling, "_NUMBERS_AT_ONCE", at_once)
    names = [f"{n:02}" for n in range(12)]
    weights = torch.cat(list(bootstrap_weights(names, 5, seed=7)))
    for row, raw in zip(weights, np.random.PCG64(7).random_raw(60).reshape(5, 12), strict=True):
        expected = np.bincount([int(r >> 32) * 12 >> 32 for r in raw.tolist()], minlength=12)
        assert row.tolist() == expected.tolist()
    names = [f"{n:02}" for n in range(70)]
    swaps = torch.cat(list(random_swaps(names, 5, seed=7)))
    for row, raw in zip(swaps, np.random.PCG64(7).random_raw(10).reshape(5, 2), strict=True):
        bits = [int(word) >> place & 1 for word in raw for place in range(64)]
        assert row.tolist() == bits[:70]


def test_the_order_of_units_has_no_effect():
    values = torch.rand(40, generator=torch.Generator().manual_seed(1))
    groups = [f"patient {n % 9}" for n in range(40)]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(2)).tolist()
    shuffled = means(values[order], [groups[n] for n in order])
    first, second = (metric_intervals([o])["acc"] for o in (means(values, groups), shuffled))
    assert first == pytest.approx(second, abs=1e-12)


def test_units_of_a_group_are_drawn_together():
    groups = [f"{n // 5}" for n in range(50)]
    weights = torch.cat(list(bootstrap_weights(groups, 20, seed=0)))
    swaps = torch.cat(list(random_swaps(groups, 20, seed=0)))
    for drawn in (weights, swaps):
        assert (drawn.view(20, 10, 5) == drawn.view(20, 10, 5)[:, :, :1]).all()
    assert (weights.sum(1) == 50).all()


def test_draws_and_swaps_are_uniform():
    groups = [str(n) for n in range(70)]
    drawn = torch.cat(list(bootstrap_weights(groups, 4000, seed=5)))
    assert (drawn.mean(0) - 1).abs().max() < 5 / math.sqrt(4000)
    assert drawn.var(0).mean() == pytest.approx(1 - 1 / 70, rel=0.02)
    swaps = torch.cat(list(random_swaps(groups, 4000, seed=5)))
    assert (swaps.mean(0) - 0.5).abs().max() < 2.5 / math.sqrt(4000)
    assert torch.corrcoef(swaps[:, :2].T)[0, 1].abs() < 0.06


def test_groups_make_intervals_wider_than_independent_units():
    of_group = torch.rand(40, generator=torch.Generator().manual_seed(3)) > 0.4
    values = of_group.double().repeat_interleave(10)
    grouped = metric_intervals([means(values, [str(n // 10) for n in range(400)])])["acc"]
    single = metric_intervals([means(values)])["acc"]
    assert grouped[1] - grouped[0] > 2.5 * (single[1] - single[0])


def test_intervals_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(0).beta(4, 2, 300)
    low, high = metric_intervals([means(values)], Resampling(replicates=10_000))["acc"]
    scipy = stats.bootstrap(
        (values,), np.mean, method="percentile", n_resamples=10_000, random_state=0
    ).confidence_interval
    width = scipy.high - scipy.low
    # SciPy's are not expanded: by 300 / 299 and t / z, less than half a percent here
    assert (low, high) == pytest.approx((scipy.low, scipy.high), abs=0.04 * width)


def test_intervals_of_macro_means_are_those_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(1)
    labels, hits = rng.integers(0, 4, 400), rng.random(400)
    right = hits < np.array([0.9, 0.7, 0.5, 0.2])[labels]
    scores = torch.zeros(400, 4)
    scores[torch.arange(400), torch.from_numpy(np.where(right, labels, (labels + 1) % 4))] = 1
    keys = [str(n) for n in range(400)]
    outcomes = classification_outcomes(scores, torch.from_numpy(labels), keys, list("abcd"))

    def macro(labels, right, axis=-1):
        shares = [np.where(labels == c, right, np.nan) for c in range(4)]
        return np.mean([np.nanmean(share, axis=axis) for share in shares], axis=0)

    expected = stats.bootstrap(
        (labels, right.astype(float)), macro, paired=True, method="percentile",
        n_resamples=10_000, random_state=0,
    ).confidence_interval  # fmt: skip
    found = metric_intervals([outcomes], Resampling(replicates=2000))["mean_per_class_recall"]
    width = expected.high - expected.low
    assert found == pytest.approx((expected.low, expected.high), abs=0.06 * width)


@pytest.mark.parametrize(("num_groups", "of_group"), [(30, 1), (40, 5)])
def test_intervals_cover_the_true_value(num_groups, of_group):
    """95 % intervals cover a known accuracy in 95 % of 600 experiments."""
    rng = np.random.default_rng(num_groups)
    groups = np.repeat(np.arange(num_groups), of_group)
    names = [f"{group:03}" for group in groups]
    covered, experiments = 0, 600
    for experiment in range(experiments):
        # units of a group share their difficulty; the mean of the difficulties is 0.75
        difficulty = rng.beta(3, 1, num_groups)[groups]
        right = torch.from_numpy((rng.random(len(groups)) < difficulty).astype(float))
        weights = torch.cat(list(bootstrap_weights(names, 300, seed=experiment)))
        samples = (weights @ right / weights.sum(1)).numpy()
        interval = percentile_interval(float(right.mean()), samples, num_groups, 0.95)
        assert interval is not None
        low, high = interval
        covered += low <= 0.75 <= high
    # the standard error of 600 experiments is 0.9 points
    assert 0.93 <= covered / experiments <= 0.975


def test_a_metric_that_no_sample_changes_has_no_interval():
    assert metric_intervals([means(torch.ones(30))]) == {}
    assert metric_intervals([means([0.0, 1.0], groups=["a", "a"])]) == {}
    assert metric_intervals([]) == {}


def test_intervals_contain_the_value_and_stay_in_range():
    values = (torch.arange(25) > 0).double()
    low, high = metric_intervals([means(values)])["acc"]
    assert low < 0.96 <= high <= 1


def test_samples_without_a_value_are_left_out():
    values = torch.full((20,), math.nan)
    values[:3] = torch.tensor([0.0, 1.0, 1.0])
    samples = metric_samples(means(values), Resampling())["acc"]
    assert 0 < np.isnan(samples).mean() < 0.1
    low, high = metric_intervals([means(values)])["acc"]
    assert 0 <= low < high <= 1
    assert percentile_interval(0.3, np.array([math.nan, math.nan, 0.3, 0.4]), 20, 0.95) is None


def test_a_value_outside_of_its_samples_has_no_interval():
    assert percentile_interval(0.01, np.linspace(0.02, 0.04, 100), 20, 0.95) is None
    assert percentile_interval(0.03, np.linspace(0.02, 0.04, 100), 20, 0.95) is not None


def test_every_metric_of_every_part_has_an_interval():
    values = torch.rand(30, generator=torch.Generator().manual_seed(4))
    first = Outcomes("means", tuple(map(str, range(30))), tuple(map(str, range(30))),
                     {"a": values, "b": values**2}, prefix="x/")  # fmt: skip
    intervals = metric_intervals([first, means(values)])
    expected = outcome_metrics(first) | outcome_metrics(means(values))
    assert list(intervals) == list(expected)
    assert all(low < expected[name] < high for name, (low, high) in intervals.items())


@pytest.mark.parametrize(
    "options", [{"confidence": 1.0}, {"confidence": 0.0}, {"replicates": 5}, {"seed": -1}]
)
def test_wrong_options_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        Resampling(**options)


@pytest.mark.parametrize(
    ("name", "lower"),
    [
        ("train/loss", True), ("val/loss_epoch", True), ("text_to_image/mean_rank", True),
        ("expected_calibration_error", True), ("modality_gap", True), ("top1", False),
        ("text_to_image/recall_at_1", False), ("val/text_to_image/recall_at_1", False),
        ("mean_average_precision", False), ("rankme", False), ("ece", True),
        ("loss_weight", False), ("worst_group", False),
        ("reranked/text_to_image/seconds_per_query", True),
    ],
)  # fmt: skip
def test_direction_of_metrics(name, lower):
    assert lower_is_better(name) == lower
