"""Few-shot probes: what is drawn, and what is measured on it."""

from __future__ import annotations

from collections import Counter
from statistics import mean, stdev

import pytest
import torch

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation import EmbedOptions, FewShotProbe, ProbeSplits
from clipkit.evaluation.probes.few_shot import draw_shots
from clipkit.evaluation.probes.logistic import L2_GRID
from clipkit.evaluation.probes.splits import EmbeddedSplit
from tests.evaluation.probes.test_splits import write_split
from tests.helpers.evaluation_data import tiny_encoder


@pytest.fixture
def two_penalties(monkeypatch):
    """Fit only with strong penalties, where a fit takes few iterations."""
    monkeypatch.setattr("clipkit.evaluation.probes.few_shot._GRID", L2_GRID[:4:3])


def split(count, groups=None):
    keys = tuple(f"k{n}" for n in range(count))
    labels = torch.arange(count) % 3
    return EmbeddedSplit(torch.eye(count), labels, keys, tuple(groups or keys))


def test_each_class_gives_as_many_images_and_more_shots_contain_fewer():
    data = split(30)
    few, more = draw_shots(data, 2, seed=0), draw_shots(data, 5, seed=0)

    assert Counter(data.labels[few].tolist()) == {0: 2, 1: 2, 2: 2}
    assert set(few.tolist()) < set(more.tolist())
    assert draw_shots(data, 2, seed=1).tolist() != few.tolist()
    assert draw_shots(data, 100, seed=0).tolist() == list(range(30))


def test_the_draw_depends_on_keys_and_not_on_their_order():
    data = split(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(0))
    shuffled = data.rows(order)

    drawn = {data.keys[n] for n in draw_shots(data, 3, 0).tolist()}

    assert {shuffled.keys[n] for n in draw_shots(shuffled, 3, 0).tolist()} == drawn


def test_groups_among_the_shots_do_not_select_the_penalty():
    data = split(30, [f"g{n // 6}" for n in range(30)])
    drawn = data.rows(draw_shots(data, 1, 0))

    others = data.rows(draw_shots(data, 4, 0, without=drawn.groups))

    assert not set(drawn.groups) & set(others.groups)


def test_mean_and_spread_are_those_of_the_draws(tmp_path, two_penalties):
    write_split(tmp_path, "train", range(40))
    write_split(tmp_path, "test", range(40, 64))
    splits = ProbeSplits(tmp_path)

    metrics = FewShotProbe(splits, shots=(1, 4), seeds=3).run(tiny_encoder())

    single = [FewShotProbe(splits, shots=(4,), seeds=n).run(tiny_encoder()) for n in (1, 2, 3)]
    assert set(single[0]) == {"shots_4/top1"}
    sums = [n * m["shots_4/top1"] for n, m in enumerate(single, start=1)]
    draws = [sums[0], sums[1] - sums[0], sums[2] - sums[1]]
    assert metrics["shots_4/top1"] == pytest.approx(mean(draws))
    assert metrics["shots_4/top1_spread"] == pytest.approx(stdev(draws))
    assert {"shots_1/top1", "shots_1/top1_spread"} <= set(metrics)


def test_outcomes_give_the_means(tmp_path, two_penalties):
    write_split(tmp_path, "train", range(40))
    write_split(tmp_path, "val", range(70, 90))
    write_split(tmp_path, "test", range(40, 52))
    splits = ProbeSplits(tmp_path, validation_split="val")

    evaluation = FewShotProbe(splits, shots=(2, 10, 16), seeds=2).evaluate(tiny_encoder())

    (outcomes,) = evaluation.outcomes
    assert set(outcomes.columns) == {"shots_2/top1", "shots_10/top1"}  # 10 images of each class
    for name, column in outcomes.columns.items():
        assert evaluation.metrics[name] == pytest.approx(float(column.mean()))
    assert len(outcomes) == 12


def test_too_few_images_and_wrong_options_are_named(tmp_path):
    write_split(tmp_path, "train", range(4))
    write_split(tmp_path, "test", range(20, 24))
    with pytest.raises(DataError, match=r"smallest class .* has 1 images, too few for 1 shots"):
        FewShotProbe(tmp_path).run(tiny_encoder())
    for options in ({"shots": []}, {"shots": [0]}, {"seeds": 0}):
        with pytest.raises(ConfigError):
            FewShotProbe(tmp_path, **options, options=EmbedOptions())
