"""Orders over masks: every kept sample once, no other one, and as over a filtered copy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.data import Mixture, SampleMask, ShardIndex, Source
from clipkit.data.order.build import first_order, restored_order
from clipkit.data.order.partition import EpochPartition
from clipkit.data.shards.shard import Shard
from clipkit.data.storage.urls import file_address
from clipkit.errors import ConfigError, DataError

shards = st.lists(st.lists(st.booleans(), min_size=1, max_size=30), min_size=1, max_size=6).filter(
    lambda kept: any(map(any, kept))
)
windows = st.none() | st.integers(1, 40)


def index_of(counts: list[int], name: str = "s") -> ShardIndex:
    return ShardIndex(
        [
            Shard(file_address(Path(f"{name}{n}.tar")), count, 10_240, "", f"{name}{n}")
            for n, count in enumerate(counts)
        ]
    )


def masked(kept: list[list[bool]], name: str = "s") -> ShardIndex:
    index = index_of(list(map(len, kept)), name)
    removed_by = 1 - np.concatenate(kept).astype(np.uint8)
    return index.with_mask(SampleMask.of(index, removed_by, ["all of one kind"]))


def copied(kept: list[list[bool]], name: str = "s") -> ShardIndex:
    """The index of a copy without the removed samples, shard by shard."""
    return index_of([sum(each) for each in kept if any(each)], name)


def ids_of(kept: list[list[bool]]) -> np.ndarray:
    return np.flatnonzero(np.concatenate(kept))


def order_of(data, shuffle=True, batch_size=2, world_size=1, window=None):
    return first_order(
        data, shuffle, 5, batch_size=batch_size, world_size=world_size, window=window
    )


def epoch_of(order, epoch=0):
    return order.samples_at(epoch, np.arange(order.num_samples))


@given(shards, windows, st.integers(0, 9), st.integers(1, 4), st.booleans())
@settings(max_examples=40, deadline=None)
def test_every_kept_sample_once_and_no_other(kept, window, epoch, world_size, shuffle) -> None:
    order = order_of(masked(kept), shuffle, world_size=world_size, window=window)
    assert sorted(epoch_of(order, epoch).ids.tolist()) == ids_of(kept).tolist()


@given(shards, windows, st.integers(0, 9), st.integers(1, 4), st.booleans())
@settings(max_examples=40, deadline=None)
def test_it_is_the_order_of_a_filtered_copy(kept, window, epoch, world_size, shuffle) -> None:
    """Replacements of bad samples as well."""
    options = {"shuffle": shuffle, "world_size": world_size, "window": window}
    order, other = (order_of(data, **options) for data in (masked(kept), copied(kept)))
    ids = ids_of(kept)
    assert order.to_state() == other.to_state()
    assert order.lookahead == other.lookahead
    ours, theirs = epoch_of(order, epoch), epoch_of(other, epoch)
    np.testing.assert_array_equal(ours.ids, ids[theirs.ids])
    np.testing.assert_array_equal(ours.passes, theirs.passes)
    for position in range(0, len(ids), 3):
        for attempt in (0, 1, 40):
            substitutes = [each.replacement(epoch, position, attempt) for each in (order, other)]
            if shuffle:
                assert substitutes[0].ids[0] == ids[substitutes[1].ids[0]]
            else:
                assert substitutes == [None, None]


@given(shards, st.data())
@settings(max_examples=40, deadline=None)
def test_any_resume_on_any_ranks_continues_the_sequence(kept, data) -> None:
    """Positions are cut into steps of other sizes, by an order restored from the state."""
    index = masked(kept)
    first = order_of(index, batch_size=2, world_size=2, window=data.draw(windows))
    whole = epoch_of(first, 1).ids.tolist()
    position, seen = 0, []
    while True:
        order = restored_order(index, True, 5, first.to_state())
        world_size, batch_size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
        parts = [
            EpochPartition(order.num_samples, batch_size, rank, world_size, "drop")
            for rank in range(world_size)
        ]
        steps = list(zip(*(part.tasks(1, position) for part in parts), strict=True))
        if not steps:
            break
        for step in steps[: data.draw(st.integers(1, len(steps)))]:
            for task in step:
                seen += order.samples_at(1, np.arange(task.num_samples) + task.first).ids.tolist()
            position = step[0].end_position if step[0].end_epoch == 1 else order.num_samples
        if position == order.num_samples:
            break
    assert seen == whole[: len(seen)]


@given(shards, shards, st.booleans(), st.integers(1, 3))
@settings(max_examples=60, deadline=None)
def test_sources_of_a_mixture_have_their_own_masks(first, second, mask_both, weight) -> None:
    """The second source may have none. Each pass over a source is of its kept samples."""
    if not mask_both:
        second = [[True] * len(each) for each in second]
    sources = [masked(first, "a"), masked(second, "b") if mask_both else copied(second, "b")]
    mixture, other = (
        Mixture([Source("a", a, weight=float(weight)), Source("b", b, weight=1.0)])
        for a, b in (sources, [copied(first, "a"), copied(second, "b")])
    )
    ids = np.concatenate([ids_of(first), len(np.concatenate(first)) + ids_of(second)])
    assert mixture.epoch_samples == other.epoch_samples == len(ids)
    order, plain = order_of(mixture), order_of(other)
    for epoch in range(3):
        ours, theirs = epoch_of(order, epoch), epoch_of(plain, epoch)
        np.testing.assert_array_equal(ours.ids, ids[theirs.ids])
        np.testing.assert_array_equal(ours.passes, theirs.passes)
        substitutes = [each.replacement(epoch, 0, 1) for each in (order, plain)]
        assert substitutes[0].ids[0] == ids[substitutes[1].ids[0]]
    assert order.source_counts(2, 0) == plain.source_counts(2, 0)
    assert order.to_state() == plain.to_state()


def test_passes_over_a_masked_source_are_counted_in_kept_samples():
    kept = [[True, False] * 5]
    mixture = Mixture(
        [Source("a", masked(kept, "a"), epochs=2), Source("b", index_of([4]), epochs=1)]
    )
    assert mixture.epoch_samples == 14


def test_large_data_are_laid_out_by_the_kept_samples():
    """Above about a million samples, local data are no longer shuffled completely."""
    index = index_of([2**20, 10])
    removed_by = np.zeros(index.num_samples, dtype=np.uint8)
    assert len(order_of(index).to_state()["layouts"]) == 1
    assert order_of(index, batch_size=8).to_state()["layouts"][0]["num_lanes"] == 8
    removed_by[::2] = 1
    small = index.with_mask(SampleMask.of(index, removed_by, ["f"]))
    assert order_of(small, batch_size=8).to_state()["layouts"][0]["num_lanes"] == 1


def test_a_mask_that_keeps_nothing_is_refused():
    index = index_of([3])
    mask = SampleMask.of(index, np.array([1, 2, 2], dtype=np.uint8), ["too small", "no caption"])
    with pytest.raises(
        DataError, match=r"keeps none of 3 samples \(filters: too small, no caption"
    ):
        index.with_mask(mask)


def test_a_second_mask_is_refused():
    index = masked([[True, False]])
    mask = SampleMask.of(index, np.zeros(2, dtype=np.uint8), [])
    with pytest.raises(ConfigError, match="combine both"):
        index.with_mask(mask)


def test_the_masked_index_leaves_the_other_one_as_it_was():
    index = index_of([2, 2])
    mask = SampleMask.of(index, np.array([1, 1, 0, 0], dtype=np.uint8), ["f"])
    assert index.kept_counts.tolist() == [2, 2]
    small = index.with_mask(mask)
    assert (index.kept.num_kept, small.kept.num_kept) == (4, 2)
    assert (index.mask, small.mask.fingerprint) == (None, mask.fingerprint)
    assert (index.kept_counts.tolist(), small.kept_counts.tolist()) == ([2, 2], [2])
    assert small.num_samples == len(small) == 4
