"""The splits of probes: leaks are refused by key, groups are held out completely."""

from __future__ import annotations

import json
import logging
from collections import Counter

import pytest
import torch

from clipkit.errors import DataError
from clipkit.evaluation import EmbedOptions, LinearProbe, ProbeSplits
from clipkit.evaluation.probes.hold_out import hold_out, rows_of_groups
from tests.helpers.evaluation_data import CLASSES, picture, tiny_encoder
from tests.helpers.factories import write_shard
from tests.helpers.ranks import run_ranks


def write_split(root, split, numbers, *, group=lambda n: f"p{n}", labels=None, names=CLASSES):
    samples = []
    for at, number in enumerate(numbers):
        record = {"patient": group(number), "labels": [number % 3, 3 + number % 2]}
        label = number % 4 if labels is None else labels[number]
        samples.append(
            (
                f"{split}{number}" if number not in numbers[:at] else f"{split}{number}at{at}",
                {
                    "png": picture(number),
                    "cls": str(label).encode(),
                    "json": json.dumps(record).encode(),
                },
            )
        )
    write_shard(root / split / "0.tar", samples)
    (root / split / "nshards.txt").write_text("1")
    (root / "classnames.txt").write_text("\n".join(names))
    return root


def test_an_image_in_two_splits_is_refused_with_both_keys(tmp_path, caplog):
    write_split(tmp_path, "train", range(20))
    write_split(tmp_path, "test", range(17, 30))

    with pytest.raises(
        DataError,
        match=r"3 images are in both splits train and test.*test17 of "
        r"test = train17 of train.*--allow-overlap",
    ):
        LinearProbe(tmp_path).run(tiny_encoder())
    with caplog.at_level(logging.WARNING):
        LinearProbe(ProbeSplits(tmp_path, allow_overlap=True)).run(tiny_encoder())
    assert "3 images are in both splits" in caplog.text


def test_a_group_in_two_splits_is_refused_with_keys(tmp_path):
    write_split(tmp_path, "train", range(20), group=lambda n: f"p{n % 5}")
    write_split(tmp_path, "val", range(40, 50), group=lambda n: f"q{n}")
    write_split(tmp_path, "test", range(20, 30), group=lambda n: "p3" if n == 24 else f"r{n}")
    splits = ProbeSplits(tmp_path, validation_split="val", group_field="json:patient")

    with pytest.raises(
        DataError,
        match=r"1 groups of json:patient are in both splits train and "
        r"test, in 1 samples of test: test24 of test = train18 of train",
    ):
        splits.embed(tiny_encoder(), EmbedOptions())


def test_a_sample_without_group_is_named(tmp_path):
    write_split(tmp_path, "train", range(20))
    write_split(tmp_path, "test", range(20, 24), group=lambda n: None if n == 22 else str(n))
    splits = ProbeSplits(tmp_path, group_field="json:patient")

    with pytest.raises(DataError, match=r"1 of 4 samples have no group in json:patient .*test22"):
        splits.embed(tiny_encoder(), EmbedOptions())


def test_the_validation_split_must_not_be_the_test_split(tmp_path):
    write_split(tmp_path, "train", range(20))
    write_split(tmp_path, "test", range(20, 30))

    with pytest.raises(DataError, match="10 images are in both splits test and test"):
        LinearProbe(tmp_path, validation_split="test").run(tiny_encoder())


def test_groups_are_held_out_completely_and_every_class_keeps_samples():
    generator = torch.Generator().manual_seed(0)
    groups = [f"g{n}" for n in torch.randint(0, 40, (400,), generator=generator).tolist()]
    labels = torch.randint(0, 4, (400,), generator=generator)

    kept, held = hold_out(labels, groups)

    assert not {groups[n] for n in kept.tolist()} & {groups[n] for n in held.tolist()}
    assert sorted([*kept.tolist(), *held.tolist()]) == list(range(400))
    shares = [float((labels[held] == c).sum() / (labels == c).sum()) for c in range(4)]
    assert all(0.1 <= share <= 0.25 for share in shares)


def test_the_choice_of_groups_does_not_depend_on_the_order_of_rows():
    labels = torch.arange(60) % 3
    groups = [f"g{n % 12}" for n in range(60)]
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))

    _, held = hold_out(labels, groups)
    _, shuffled = hold_out(labels[order], [groups[n] for n in order.tolist()])

    assert {groups[n] for n in held.tolist()} == {groups[order[n]] for n in shuffled.tolist()}


def test_a_class_in_one_group_is_not_held_out():
    classes = [[0]] * 8 + [[1]] * 4
    groups = ["a", "b", "c", "d"] * 2 + ["e"] * 4

    held = rows_of_groups(classes, groups)

    assert Counter(g for g, h in zip(groups, held.tolist(), strict=True) if h).keys() <= set("abcd")
    assert held.any()


def test_the_same_file_twice_in_training_is_not_split(tmp_path):
    write_split(tmp_path, "train", [n % 10 for n in range(40)])
    write_split(tmp_path, "test", range(20, 30))

    parts = ProbeSplits(tmp_path).embed(tiny_encoder(), EmbedOptions())
    kept, held = hold_out(parts["train"].labels, parts["train"].groups)

    groups = parts["train"].groups
    assert len(set(groups)) == 10
    assert not {groups[n] for n in kept.tolist()} & {groups[n] for n in held.tolist()}


def probe_on_rank(rank: int, world_size: int, root):
    splits = ProbeSplits(root, group_field="json:patient")
    evaluation = LinearProbe(splits, options=EmbedOptions(batch_size=3)).evaluate(tiny_encoder())
    return evaluation.metrics, evaluation.outcomes[0].groups


def test_two_ranks_measure_what_one_process_measures(tmp_path):
    write_split(tmp_path, "train", range(33), group=lambda n: f"p{n % 11}")
    write_split(tmp_path, "test", range(40, 53), group=lambda n: f"t{n % 4}")
    alone = probe_on_rank(0, 1, tmp_path)

    first, second = run_ranks(probe_on_rank, 2, tmp_path)

    assert first == second
    assert first[0] == pytest.approx(alone[0], abs=1e-6)
    assert first[1] == alone[1]
