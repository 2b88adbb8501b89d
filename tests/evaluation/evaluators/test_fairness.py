"""Fairness by group: counted by a loop over the images of each group."""

from __future__ import annotations

import json

import pytest
import torch

from clipkit.errors import ConfigError, DataError
from clipkit.evaluation import (
    GroupFairness,
    LabelHeadClassification,
    ZeroShotClassification,
    ZeroShotOptions,
    load_outcomes,
    make_evaluator,
    outcome_metrics,
    save_outcomes,
)
from clipkit.models import LinearLabelHead
from tests.helpers.evaluation_data import CLASSES, picture, tiny_encoder
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks

REGIONS = ("asia", "asia", "europe", "africa", "europe")


def write(root, count=24, region=lambda n: REGIONS[n % 5]):
    samples = []
    for number in range(count):
        record = json.dumps({"region": region(number)}).encode()
        members = {"png": picture(number), "cls": str(number % 3).encode(), "json": record}
        samples.append((f"s{number}", members))
    write_shard(root / "test" / "0.tar", samples)
    (root / "test" / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(CLASSES))
    return root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write(tmp_path_factory.mktemp("data"))


@pytest.mark.parametrize("kind", [ZeroShotClassification, LabelHeadClassification])
def test_groups_are_counted_as_a_loop_does(root, kind):
    encoder = tiny_encoder()
    encoder.label_head = LinearLabelHead(encoder.embedding_dim, len(CLASSES))
    encoder.label_head.class_names = CLASSES
    torch.manual_seed(2)
    torch.nn.init.normal_(encoder.label_head.linear.weight)
    predictions = kind(root).predict(encoder)

    evaluation = GroupFairness(kind(root), "json:region").evaluate(encoder)

    right = (predictions.scores.argmax(1) == predictions.labels).tolist()
    accuracy, recall = {}, {}
    for region in set(REGIONS):
        rows = [n for n in range(24) if REGIONS[n % 5] == region]
        accuracy[region] = sum(right[n] for n in rows) / len(rows)
        by_class = [[right[n] for n in rows if n % 3 == c] for c in range(3)]
        recall[region] = sum(sum(hits) / len(hits) for hits in by_class) / 3
        assert evaluation.details[f"images/{region}"] == len(rows)
    metrics = evaluation.metrics
    for name, of_groups in (("top1", accuracy), ("mean_per_class_recall", recall)):
        for region, value in of_groups.items():
            assert metrics[f"group/{region}/{name}"] == pytest.approx(value)
        worst, best = min(of_groups.values()), max(of_groups.values())
        assert metrics[f"worst_group/{name}"] == pytest.approx(worst)
        assert metrics[f"group_gap/{name}"] == pytest.approx(best - worst)
    assert metrics["top1"] == pytest.approx(sum(right) / 24)


def test_outcomes_give_the_metrics_for_any_weights_and_from_a_file(tmp_path, root):
    classifier = ZeroShotClassification(root)
    evaluation = GroupFairness(classifier, "json:region").evaluate(tiny_encoder())
    save_outcomes(tmp_path / "o.npz", evaluation.outcomes)
    everything, by_group = load_outcomes(tmp_path / "o.npz")

    assert evaluation.metrics == outcome_metrics(everything) | outcome_metrics(by_group)
    only_asia = torch.tensor([float(REGIONS[n % 5] == "asia") for n in range(24)])
    drawn = outcome_metrics(by_group, only_asia)
    assert drawn["group/asia/top1"] == evaluation.metrics["group/asia/top1"]
    assert drawn["worst_group/top1"] == drawn["group/asia/top1"]  # no image of another group
    assert drawn["group_gap/top1"] == 0


def test_an_image_without_group_and_a_missing_field_are_named(tmp_path, root):
    write(tmp_path, 6, lambda n: None if n == 4 else "asia")
    with pytest.raises(DataError, match=r"1 of 6 samples have no group in json:region .*s4"):
        GroupFairness(ZeroShotClassification(tmp_path), "json:region").run(tiny_encoder())
    with pytest.raises(ConfigError, match=r"fairness: expected the field .*--group-field"):
        make_evaluator("fairness", root)
    made = make_evaluator("fairness", root, zero_shot=ZeroShotOptions(group_field="json:region"))
    assert isinstance(made, GroupFairness)


def measure_on_rank(rank: int, world_size: int, root):
    fairness = GroupFairness(ZeroShotClassification(root), "json:region")
    return fairness.evaluate(tiny_encoder()).metrics


def test_two_ranks_measure_what_one_process_measures(root):
    alone = measure_on_rank(0, 1, root)
    first, second = run_ranks(measure_on_rank, 2, root)
    assert first == second == pytest.approx(alone)
