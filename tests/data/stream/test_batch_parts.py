"""Batches that several workers make parts of, against those that this process makes."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.data import Group, Mixture, PairStream, ShardIndex, Source
from clipkit.data.order.partition import BatchSizeStage, EpochPartition
from clipkit.data.stream import builder, workers
from clipkit.errors import DataError
from clipkit.types import Batch
from clipkit.when import When
from tests.data.samples.test_joining import check_equal
from tests.helpers.bad_samples import write_bad_shards
from tests.helpers.factories import pair, write_shard, write_shards
from tests.helpers.leftovers import Leftovers
from tests.helpers.streams import ids, make

ORDERS: dict[str, dict[str, Any]] = {
    "shuffled": {},
    "buckets": {"length_bucket_batches": 2},
    "stages": {"batch_size_stages": [BatchSizeStage(4, When(samples=30))]},
    "padded": {"tail": "pad"},
    "as stored": {"shuffle": False, "tail": "keep"},
    "even": {"shuffle": False, "tail": "even"},
}


@pytest.fixture(autouse=True)
def small_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "TASK_SAMPLES", 3)


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    folder = tmp_path_factory.mktemp("bad")
    write_bad_shards(folder)
    return ShardIndex.from_urls(folder)


def bad_stream(index: ShardIndex, **options: Any) -> PairStream:
    defaults = {"max_bad_fraction": 1.0, "fields": [Group("json:color")]}
    return make(index, 10, **{**defaults, **options})


def taken(stream: PairStream, epochs: int) -> tuple[list[Batch], list[dict[str, Any]]]:
    """The batches of some epochs and the states after each."""
    batches, states = [], []
    for _ in range(epochs):
        for batch in stream:
            stream.commit(batch)
            batches.append(batch)
            states.append({**stream.state_dict(), **stream.counters()})
    return batches, states


@pytest.mark.parametrize("order", ORDERS)
def test_batches_states_and_faults_are_those_of_one_process(bad: ShardIndex, order: str) -> None:
    for rank in range(2):
        options = {**ORDERS[order], "rank": rank, "world_size": 2}
        mine, my_states = taken(bad_stream(bad, num_workers=2, **options), 2)
        theirs, their_states = taken(bad_stream(bad, **options), 2)
        assert my_states == their_states
        assert max(len(batch) for batch in theirs) > 3
        for batch, expected in zip(mine, theirs, strict=True):
            check_equal(batch, expected)
            assert batch.cursor == expected.cursor


def test_parts_of_mixtures_continue_over_the_end_of_an_epoch(
    bad: ShardIndex, tmp_path: Path
) -> None:
    write_shards(tmp_path, [30])
    other = ShardIndex.from_urls(tmp_path)

    def mixed(**options: Any) -> PairStream:
        mixture = Mixture([Source("bad", bad, weight=1), Source("other", other, weight=2)])
        return bad_stream(mixture, **options)  # type: ignore[arg-type]

    mine, my_states = taken(mixed(num_workers=2), 2)
    theirs, their_states = taken(mixed(), 2)
    assert my_states == their_states
    for batch, expected in zip(mine, theirs, strict=True):
        check_equal(batch, expected)


@pytest.mark.parametrize(("steps", "world_size", "num_workers"), [(2, 1, 3), (4, 2, 1), (6, 2, 2)])
def test_a_resume_with_other_ranks_and_workers_continues_the_sequence(
    bad: ShardIndex, steps: int, world_size: int, num_workers: int
) -> None:
    whole = [i for batch in taken(make(bad, 8, max_bad_fraction=1.0), 2)[0] for i in ids(batch)]
    first = make(bad, 8, max_bad_fraction=1.0, num_workers=2)
    seen: list[int] = []
    for batch in first:
        first.commit(batch)
        seen += ids(batch)
        if len(seen) == 8 * steps:
            break
    ranks = []
    for rank in range(world_size):
        options = {"rank": rank, "world_size": world_size, "num_workers": num_workers}
        stream = make(bad, 8 // world_size, max_bad_fraction=1.0, **options)
        stream.load_state_dict(first.state_dict())
        ranks.append([ids(batch) for batch in taken(stream, 2)[0]])
    rest = [i for step in zip(*ranks, strict=True) for part in step for i in part]
    assert (seen + rest)[: len(whole)] == whole


def test_prepared_batches_of_the_next_epoch_are_not_delivered(bad: ShardIndex) -> None:
    """Neither for a checkpoint at the end of an epoch, nor after a change of the epoch."""
    stream = bad_stream(bad, num_workers=2)
    taken(stream, 1)
    time.sleep(0.3)  # parts of epoch 1 are under way
    assert (stream.state_dict()["epoch"], stream.state_dict()["position"]) == (1, 0)
    stream.set_epoch(3)
    expected = bad_stream(bad)
    expected.set_epoch(3)
    for mine, theirs in zip(taken(stream, 1)[0], taken(expected, 1)[0], strict=True):
        check_equal(mine, theirs)


def test_a_batch_without_usable_samples_and_one_with_some(tmp_path: Path) -> None:
    """As stored, where bad samples are not replaced: whole parts of a batch are missing."""
    samples = [(f"{i}", pair(i) if i in (4, 17) else {**pair(i), "jpg": b""}) for i in range(24)]
    write_shard(tmp_path / "0.tar", samples)
    index = ShardIndex.from_urls(tmp_path)
    options: dict[str, Any] = {"shuffle": False, "tail": "keep", "max_bad_fraction": 1.0}
    mine, my_states = taken(make(index, 8, num_workers=2, **options), 1)
    theirs, their_states = taken(make(index, 8, **options), 1)
    assert [ids(batch) for batch in mine] == [[4], [17]] == [ids(batch) for batch in theirs]
    assert my_states == their_states


def test_an_error_of_one_part_is_that_of_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(builder, "MAX_REPLACEMENTS", 24)
    samples = [(f"{i}", {**pair(i), "jpg": b"broken"} if i > 8 else pair(i)) for i in range(100)]
    write_shard(tmp_path / "0.tar", samples)
    messages = []
    for num_workers in (0, 2):
        stream = make(
            ShardIndex.from_urls(tmp_path), 12, num_workers=num_workers, max_bad_fraction=1.0,
            shuffle_window=1,
        )  # fmt: skip
        with pytest.raises(DataError, match="no usable sample in a lane") as caught:
            taken(stream, 1)
        reason = str(caught.value).split("<_io")[0]  # and the address of a buffer
        messages.append((reason, stream.counters()))
    assert messages[0] == messages[1]


def test_tasks_are_of_nearly_equal_size() -> None:
    partition = EpochPartition(4096, 130, rank=1, world_size=2, tail="drop")
    task = next(partition.tasks(0, 0))
    parts = task.parts(64)
    assert [(part.first, part.num_samples) for part in parts] == [(130, 43), (173, 43), (216, 44)]
    assert task.parts(130) == [task]


def test_every_worker_takes_part_in_a_batch(bad: ShardIndex, tmp_path: Path) -> None:
    class WithProcess:
        image_size = 8

        def __call__(self, data: bytes, rng: Any) -> torch.Tensor:
            return torch.full((3, 8, 8), os.getpid() % 251, dtype=torch.uint8)

    write_shards(tmp_path, [24])
    stream = make(ShardIndex.from_urls(tmp_path), 12, num_workers=3, image_transform=WithProcess())
    owners = next(iter(stream)).images[:, 0, 0, 0]
    assert owners.reshape(4, 3).unique(dim=1).shape == (4, 1)
    assert owners[0] == owners[9]  # the first worker again
    assert len(owners.unique()) == 3


@pytest.mark.parametrize("shuffle", [True, False])
def test_a_deleted_stream_leaves_no_process_and_no_thread(bad: ShardIndex, shuffle: bool) -> None:
    left = Leftovers()
    stream = bad_stream(bad, num_workers=2, shuffle=shuffle)
    next(iter(stream))
    del stream
    left.wait()


def test_workers_of_a_validation_end_with_it(bad: ShardIndex) -> None:
    left = Leftovers()
    stream = bad_stream(bad, num_workers=2, shuffle=False)
    first = taken(stream, 1)[0]
    left.wait()
    for mine, theirs in zip(taken(stream, 1)[0], first, strict=True):
        check_equal(replace(mine, cursor=None), replace(theirs, cursor=None))
