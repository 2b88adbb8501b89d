"""Batches that grow during a run: every sample once, in the order that it has without them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.data import BatchSizeStage, PairStream, ShardIndex
from clipkit.data.order.partition import EpochPartition, Tail
from clipkit.errors import ConfigError
from clipkit.when import When
from tests.helpers.factories import write_shards
from tests.helpers.fakes import ByteTokenizer, NoisyTransform, first_text, flat_stream

TOTAL = 61


def stage(batch_size: int, samples: int) -> BatchSizeStage:
    return BatchSizeStage(batch_size, When(samples=samples))


STAGES = [stage(2, 10), stage(4, 75)]


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, [7, 13, 5, 20, 16])
    return ShardIndex.from_urls(folder)


def make(index: ShardIndex, batch_size: int = 8, **options: Any) -> PairStream:
    defaults: dict[str, Any] = {
        "tokenizer": ByteTokenizer(),
        "image_transform": NoisyTransform(),
        "caption": first_text,
        "batch_size_stages": STAGES,
    }
    return flat_stream(index, batch_size=batch_size, **{**defaults, **options})


def epochs(stream: PairStream, number: int) -> list[list[list[int]]]:
    """The sample ids of every batch of some epochs."""
    found = []
    for _ in range(number):
        length, batches = len(stream), []
        for batch in stream:
            stream.commit(batch)
            assert batch.sample_ids is not None
            batches.append(batch.sample_ids.tolist())
        assert len(batches) == length
        found.append(batches)
    return found


def sizes(batches: list[list[int]]) -> list[int]:
    return [len(batch) for batch in batches]


@st.composite
def partitions(draw: st.DrawFn) -> tuple[int, int, tuple[BatchSizeStage, ...]]:
    """Samples of an epoch, the last size of a batch, stages before it."""
    numbers = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4, unique=True).map(sorted))
    ends = draw(
        st.lists(
            st.integers(1, 400),
            min_size=len(numbers) - 1,
            max_size=len(numbers) - 1,
            unique=True,
        ).map(sorted)
    )
    stages = tuple(map(stage, numbers, ends))
    return draw(st.integers(1, 150)), numbers[-1], stages


@given(partitions(), st.integers(1, 4), st.integers(0, 3), st.sampled_from(["drop", "pad", "keep"]))
@settings(max_examples=60, deadline=None)
def test_ranks_share_each_epoch_out(
    given_: tuple[int, int, tuple[BatchSizeStage, ...]], world_size: int, epoch: int, tail: Tail
) -> None:
    num_samples, batch_size, stages = given_
    ranks = [
        list(
            EpochPartition(num_samples, batch_size, rank, world_size, tail, stages).tasks(epoch, 0)
        )
        for rank in range(world_size)
    ]
    partition = EpochPartition(num_samples, batch_size, 0, world_size, tail, stages)
    assert len(ranks[0]) == partition.num_batches(epoch)
    flat = [p for step in ranks for t in step for p in range(t.first, t.first + t.num_samples)]
    if tail == "keep":
        assert sorted(flat) == list(range(num_samples))
    else:
        assert sorted(flat) == list(range(len(flat)))
        assert (len(flat) >= num_samples) == (tail == "pad" or len(flat) == num_samples)
    if tail == "drop" and flat:
        assert len(flat) + sum(task.dropped for task in ranks[0]) == num_samples
        last = ranks[0][-1]
        assert (last.end_epoch, last.end_position) == (epoch + 1, 0)
    for task in ranks[0]:  # a resume anywhere goes on with the same batches
        if task.end_epoch == epoch and tail == "drop":
            rest = list(partition.tasks(epoch, task.end_position))
            assert rest == ranks[0][ranks[0].index(task) + 1 :]


def test_batches_grow_over_epochs(index: ShardIndex) -> None:
    plain = epochs(make(index, batch_size_stages=()), 3)
    first, second, third = epochs(make(index), 3)
    assert sizes(first) == [2] * 5 + [4] * 12
    # 75 samples are behind 14 samples into the second epoch, inside its fourth step of 4
    assert sizes(second) == [4] * 4 + [8] * 5
    assert third == plain[2]
    for mine, theirs in zip((first, second), plain, strict=False):
        flat = ([i for batch in batches for i in batch] for batches in (mine, theirs))
        shorter, longer = sorted(flat, key=len)
        assert longer[: len(shorter)] == shorter


@pytest.mark.parametrize("steps", [1, 4, 5, 6, 16, 17, 20, 21, 22])
def test_resumed_before_and_after_a_change(index: ShardIndex, steps: int) -> None:
    whole = [batch for epoch in epochs(make(index), 2) for batch in epoch]
    stream, seen = make(index), []
    while len(seen) < steps:
        for batch in stream:
            stream.commit(batch)
            assert batch.sample_ids is not None
            seen.append(batch.sample_ids.tolist())
            if len(seen) == steps:
                break
    resumed = make(index, num_workers=int(steps == 5))
    resumed.load_state_dict(stream.state_dict())
    left = 2 - resumed.epoch
    assert seen + [batch for epoch in epochs_from(resumed, left) for batch in epoch] == whole


def epochs_from(stream: PairStream, number: int) -> list[list[list[int]]]:
    """As ``epochs``, from the middle of one on."""
    found = []
    for _ in range(number):
        batches = []
        for batch in stream:
            stream.commit(batch)
            assert batch.sample_ids is not None
            batches.append(batch.sample_ids.tolist())
        found.append(batches)
    return found


def test_ranks_and_workers_see_the_same_steps(index: ShardIndex) -> None:
    (whole,) = epochs(make(index), 1)
    halves = [stage(1, 10), stage(2, 75)]
    for options in ({}, {"length_bucket_batches": 2}):
        (one,) = epochs(make(index, **options), 1)
        ranks = [
            epochs(make(index, 4, batch_size_stages=halves, rank=rank, world_size=2, **options), 1)[
                0
            ]
            for rank in range(2)
        ]
        assert [a + b for a, b in zip(*ranks, strict=True)] == one
    assert epochs(make(index, num_workers=2), 1) == [whole]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([stage(8, 10)], r"batches that grow up to batch_size 8, got \[8\]"),
        (
            [stage(4, 10), stage(2, 20)],
            "batches that grow",
        ),
        ([stage(0, 10)], "batches that grow"),
        (
            [stage(2, 20), stage(4, 20)],
            r"above 0, got \[20, 20\]",
        ),
        ([stage(2, 0)], r"above 0, got \[0\]"),
    ],
)
def test_stages_that_cannot_be(
    index: ShardIndex, stages: list[BatchSizeStage], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"batch_size_stages: .*{message}"):
        make(index, batch_size_stages=stages)


def test_a_stage_ends_by_samples() -> None:
    for until in (100, 0.5, When(step=3)):
        with pytest.raises(ConfigError, match=r"until: expected a number of samples"):
            BatchSizeStage(2, until)
