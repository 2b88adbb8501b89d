"""Shards that webdataset reads: the same samples, split, shuffled and counted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from clipkit.data import (
    BatchSizeStage,
    EvalTransform,
    Group,
    OrderOptions,
    PairStream,
    SampleOptions,
    ShardIndex,
    TrainTransform,
)
from clipkit.errors import CheckpointError, ConfigError
from clipkit.when import When
from tests.helpers.factories import image_bytes, pair, write_shard, write_shards
from tests.helpers.fakes import ByteTokenizer
from tests.helpers.web_streams import COUNTS, TOTAL, keys, make, own, train


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, COUNTS)
    return folder


def test_tensors_are_those_of_a_pair_stream(tmp_path: Path) -> None:
    formats = ["JPEG", "PNG", "WEBP", "GIF"]
    samples = []
    for number in range(16):
        image = image_bytes("blue", (30 + number, 21), number, formats[number % 4])
        members = {**pair(number), formats[number % 4].lower(): image}
        members.pop("jpg" if number % 4 else "webp", None)
        samples.append((f"{number:04d}", members))
    write_shard(tmp_path / "0.tar", samples[:7])
    write_shard(tmp_path / "1.tar", samples[7:])
    options = SampleOptions(fields=[Group("json:color")], num_threads=2)
    exact = PairStream(
        ShardIndex.from_urls(tmp_path), tokenizer=ByteTokenizer(), batch_size=1,
        image_transform=EvalTransform(16), samples=options,
    )  # fmt: skip
    expected = {batch.keys[0]: batch for batch in exact}
    found = list(make(tmp_path, 16, batch_size=1, samples=options))
    assert sorted(keys(found)) == sorted(expected)
    for batch in found:
        other = expected[batch.keys[0]]
        assert batch.captions == other.captions
        for name in ("images", "tokens", "labels", "groups"):
            assert torch.equal(getattr(batch, name), getattr(other, name)), name


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_ranks_with_two_workers_divide_a_pass(tmp_path: Path, num_workers: int) -> None:
    write_shards(tmp_path, [8] * 4)  # a shard for each worker, so that their passes end together
    ranks = [
        make(tmp_path, 32, rank=rank, world_size=2, num_workers=num_workers) for rank in (0, 1)
    ]
    first, second = (keys(rank) for rank in ranks)
    assert len(first) == len(second) == 16
    assert sorted([*first, *second]) == [f"{number:06d}" for number in range(32)]


def test_a_pass_holds_every_sample_once(shards: Path) -> None:
    source = make(shards)
    first, second = (keys(train(source, TOTAL // 4)) for _ in range(2))
    assert sorted(first) == sorted(second) == sorted({f"{number:06d}" for number in range(TOTAL)})
    assert first != second


def test_all_ranks_have_the_same_number_of_steps(tmp_path: Path) -> None:
    write_shards(tmp_path, [2, 30, 3])  # the ranks have shares of very different size
    for epoch_steps in ([5] * 3, [5] * 3):
        ranks = [make(tmp_path, 63, rank=rank, world_size=3) for rank in range(3)]
        assert [sum(1 for _ in rank) for rank in ranks] == epoch_steps
    assert make(tmp_path, 63, world_size=3, rank=0).num_samples == 60


def test_fewer_shards_than_workers_run_no_worker_dry(tmp_path: Path) -> None:
    write_shards(tmp_path, [9])
    ranks = [make(tmp_path, 16, rank=rank, world_size=2, num_workers=2) for rank in (0, 1)]
    assert [len(keys(list(rank))) for rank in ranks] == [8, 8]


def test_the_state_counts_and_a_resume_shuffles_anew(shards: Path) -> None:
    source = make(shards)
    before = train(source, 20)
    state = source.state_dict()
    assert state["exact"] is False
    assert state["samples_seen"] == 80
    assert (state["epoch"], state["position"]) == (1, 80 - TOTAL)
    assert source.counters()["samples_seen"] == 80
    resumed = make(shards)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    after = train(resumed, 12)
    assert resumed.state_dict()["samples_seen"] == 128
    assert keys(after) != keys(before)[:48]
    again = make(shards)
    again.load_state_dict(state)
    assert keys(train(again, 12)) == keys(after)


def test_a_resume_on_other_ranks_keeps_place_and_epoch(shards: Path) -> None:
    source = make(shards, 61, batch_size=6)
    assert source.num_samples == 60
    train(source, 3)
    resumed = make(shards, 61, batch_size=4, rank=1, world_size=2)
    resumed.load_state_dict(source.state_dict())
    assert (resumed.num_samples, resumed.state_dict()["position"]) == (60, 18)
    assert len(list(resumed)) == -(-42 // 8)


def test_options_of_the_checkpoint_win_loudly(
    shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    resumed = make(shards, 40, seed=9)
    resumed.load_state_dict(make(shards).state_dict())
    assert "seed: using 3 from the checkpoint, ignoring 9" in caplog.text
    assert f"num_samples: using {TOTAL} from the checkpoint, ignoring 40" in caplog.text


def test_states_of_the_other_source_are_refused(shards: Path) -> None:
    exact = PairStream(ShardIndex.from_urls(shards), tokenizer=ByteTokenizer(), batch_size=4)
    with pytest.raises(CheckpointError, match=r"of a WebDatasetSource \(exact: false\)"):
        exact.load_state_dict(make(shards).state_dict())
    with pytest.raises(CheckpointError, match="of a PairStream, whose exact order"):
        make(shards).load_state_dict(exact.state_dict())
    state = make(shards).state_dict()
    del state["samples_seen"]
    with pytest.raises(CheckpointError, match="incomplete, samples_seen missing"):
        make(shards).load_state_dict(state)


def test_an_order_depends_on_the_seed(shards: Path) -> None:
    assert keys(make(shards)) == keys(make(shards))
    assert keys(make(shards)) != keys(make(shards, seed=4))


def test_shards_may_be_drawn_with_replacement(shards: Path) -> None:
    order = OrderOptions(shuffle_window=10)
    ranks = [
        make(shards, 6 * TOTAL, rank=rank, world_size=2, resampled=True, order=order)
        for rank in (0, 1)
    ]
    first, second = (keys(list(rank)) for rank in ranks)
    assert first != second
    assert len(set(first) | set(second)) > TOTAL // 2
    assert len(set(first)) < len(first)  # more than a pass


def test_batches_may_grow(shards: Path) -> None:
    stages = [BatchSizeStage(2, When(samples=8))]
    source = make(shards, 24, order=OrderOptions(batch_size_stages=stages))
    assert [len(batch) for batch in source] == [2] * 4 + [4] * 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": OrderOptions(shuffle=False)}, "webdataset reads for training"),
        ({"order": OrderOptions(tail="even")}, "webdataset reads for training"),
        ({"order": OrderOptions(length_bucket_batches=4)}, "needs an exact order"),
        ({"num_samples": 3}, "batch_size: expected at most the 3 samples"),
        ({"pipeline": own, "resampled": True}, "resampled: has no effect on a pipeline"),
        (
            {"pipeline": own, "order": OrderOptions(shuffle_window=9)},
            r"order\.shuffle_window: has no effect on a pipeline",
        ),
        ({"num_workers": -1}, "num_workers: expected at least 0"),
        (
            {
                "samples": SampleOptions(num_threads=2),
                "image_transform": TrainTransform(16, augmentations=[v2.RandomInvert()]),
            },
            "num_threads: expected 1 with augmentations of torchvision",
        ),
    ],
)
def test_options_that_cannot_work(shards: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(shards, **options)


def test_captions_are_read_before_the_run(shards: Path) -> None:
    facts = make(shards).read_captions(ByteTokenizer(), 12)
    assert len(facts.lengths) == 12
    assert make(shards, pipeline=own).read_captions(ByteTokenizer()).lengths == []


def test_an_older_iteration_is_refused(shards: Path) -> None:
    source = make(shards)
    first = iter(source)
    next(first)
    next(iter(source))
    with pytest.raises(ConfigError, match="a newer iteration has begun"):
        next(first)
    assert not source.is_exact
