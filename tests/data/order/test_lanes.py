"""The order: a permutation of bounded reach, computed anywhere alone, for any topology."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.data.order.lanes import LaneLayout, LaneShuffle, choose_layout
from clipkit.data.order.partition import EpochPartition, Tail
from clipkit.errors import CheckpointError

counts_lists = st.lists(st.integers(1, 40), min_size=1, max_size=12)
layouts = st.builds(LaneLayout, st.integers(1, 9), st.integers(1, 7), st.integers(1, 60))


def whole_epoch(order: LaneShuffle, epoch: int) -> np.ndarray:
    return order.ids(epoch, np.arange(order.num_samples))


@given(counts_lists, layouts, st.integers(0, 2**40), st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_a_permutation(
    counts: list[int], layout: LaneLayout, seed: int, epoch: int
) -> None:
    ids = whole_epoch(LaneShuffle(counts, layout, seed), epoch)
    assert sorted(ids.tolist()) == list(range(sum(counts)))


@given(counts_lists, layouts, st.data())
@settings(max_examples=40, deadline=None)
def test_any_stretch_is_what_the_whole_epoch_holds_there(
    counts: list[int], layout: LaneLayout, data: st.DataObject
) -> None:
    total = sum(counts)
    start = data.draw(st.integers(0, total - 1))
    stop = data.draw(st.integers(start, total))
    whole = whole_epoch(LaneShuffle(counts, layout, 5), 2)
    alone = LaneShuffle(counts, layout, 5).ids(2, np.arange(start, stop))
    np.testing.assert_array_equal(alone, whole[start:stop])


@given(counts_lists, layouts)
@settings(max_examples=40, deadline=None)
def test_a_lane_moves_samples_by_less_than_a_window(counts: list[int], layout: LaneLayout) -> None:
    """Undo the dealing: inside a lane, samples stay within a window of the shards' order."""
    order = LaneShuffle(counts, layout, 9)
    ids = whole_epoch(order, 0)
    plain = whole_epoch(
        LaneShuffle(counts, LaneLayout(layout.num_lanes, layout.chunk_size, 1), 9), 0
    )
    place = {int(sample): position for position, sample in enumerate(plain)}
    lanes, offsets = order._locate(np.arange(len(ids)))
    lanes_of = [int(lanes[place[int(sample)]]) for sample in ids]
    offsets_of = np.array([int(offsets[place[int(sample)]]) for sample in ids])
    assert lanes_of == lanes.tolist()
    assert (np.abs(offsets_of - offsets) < layout.window).all()


def test_seeds_epochs_and_sources_differ() -> None:
    layout = LaneLayout(4, 4, 50)
    orders = {
        tuple(LaneShuffle([50, 60, 70], layout, seed, source).ids(epoch, np.arange(180)).tolist())
        for seed in (0, 1)
        for source in (0, 1)
        for epoch in (0, 1)
    }
    assert len(orders) == 8


def test_a_full_shuffle_is_uniform() -> None:
    """Over many seeds, every sample stands in the first place equally often."""
    layout = choose_layout(6, 2, 1, random_access=True)
    first = [
        int(LaneShuffle([2, 1, 3], layout, seed).ids(0, np.arange(1))[0]) for seed in range(3000)
    ]
    counts = np.bincount(first, minlength=6)
    # Five standard deviations of a binomial with p = 1/6.
    assert (np.abs(counts - 500) < 5 * np.sqrt(3000 * 5 / 36)).all()


def test_the_tail_that_is_dropped_moves_every_epoch() -> None:
    order = LaneShuffle([10, 10, 10], LaneLayout(2, 4, 8), 0)
    tails = {frozenset(order.ids(epoch, np.arange(24, 30)).tolist()) for epoch in range(6)}
    assert len(tails) == 6


def test_a_billion_samples_are_planned_where_they_are_asked_for() -> None:
    counts = np.full(100_000, 10_000)
    order = LaneShuffle(counts, LaneLayout(512, 64, 16_384), 3)
    positions = np.arange(900_000_000, 900_004_096)
    ids = order.ids(7, positions)
    assert len(np.unique(ids)) == len(ids)
    assert sum(block.nbytes for block in order._blocks.values()) < 2**25
    # One rank of 64 with 8 lanes touches a few shards at a time.
    assert len(np.unique(order.ids(7, np.arange(900_005_888, 900_006_400)) // 10_000)) <= 8 * 3


def test_refills_are_others_of_the_same_lane() -> None:
    order = LaneShuffle([400], LaneLayout(4, 5, 20), 0)
    ids = whole_epoch(order, 1)
    lanes, _ = order._locate(np.arange(400))
    lane_of = dict(zip(ids.tolist(), lanes.tolist(), strict=True))
    for position in range(0, 400, 7):
        found = {order.replacement(1, position, attempt) for attempt in range(8)}
        assert int(ids[position]) not in found
        assert {lane_of[sample] for sample in found} == {int(lanes[position])}
        assert len(found) > 4


def test_late_refills_reach_the_whole_lane() -> None:
    order = LaneShuffle([30], LaneLayout(1, 1, 30), 0)
    assert {order.replacement(0, 3, attempt) for attempt in range(400)} == set(range(30))


def test_layouts_survive_a_state_and_refuse_a_broken_one() -> None:
    layout = LaneLayout(4, 8, 100)
    assert LaneLayout.from_state(layout.to_state()) == layout
    for broken in ({}, {**layout.to_state(), "window": 0}, {**layout.to_state(), "window": "x"}):
        with pytest.raises(CheckpointError, match="layout"):
            LaneLayout.from_state(broken)


@given(st.integers(1, 5000), st.integers(1, 64), st.integers(1, 9), st.booleans())
@settings(max_examples=40, deadline=None)
def test_the_chosen_layout_deals_every_rank_its_own_lanes(
    num_samples: int, batch_size: int, world_size: int, random_access: bool
) -> None:
    layout = choose_layout(
        num_samples, batch_size, world_size, random_access=random_access, window=100
    )
    if layout.num_lanes < num_samples:
        assert layout.num_lanes * layout.chunk_size == batch_size * world_size


def positions_of(partition: EpochPartition, position: int = 0) -> list[list[int]]:
    return [
        [place % partition.num_samples for place in range(t.first, t.first + t.num_samples)]
        for t in partition.tasks(0, position)
    ]


@given(
    st.integers(1, 300), st.integers(1, 12), st.integers(1, 5),
    st.sampled_from(["drop", "pad", "keep"]),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_ranks_share_an_epoch_out(
    num_samples: int, batch_size: int, world_size: int, tail: Tail
) -> None:
    ranks = [
        EpochPartition(num_samples, batch_size, rank, world_size, tail)
        for rank in range(world_size)
    ]
    batches = [positions_of(partition) for partition in ranks]
    assert [len(mine) for mine in batches] == [partition.num_batches(0) for partition in ranks]
    flat = sorted(place for mine in batches for batch in mine for place in batch)
    step = batch_size * world_size
    if tail == "keep":
        assert flat == list(range(num_samples))
    elif tail == "drop":
        assert flat == list(range(num_samples // step * step))
        dropped = sum(task.dropped for task in ranks[0].tasks(0, 0))
        assert dropped == (num_samples % step if len(batches[0]) else 0)
    else:
        assert set(flat) == set(range(num_samples))
        assert len(flat) == -(-num_samples // step) * step
    if tail != "keep":
        assert {len(batch) for mine in batches for batch in mine} <= {batch_size}


@given(st.integers(1, 300), st.integers(1, 12), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_even_steps_hold_all_and_leave_no_rank_out(
    num_samples: int, batch_size: int, world_size: int
) -> None:
    ranks = [
        EpochPartition(num_samples, batch_size, rank, world_size, "even")
        for rank in range(world_size)
    ]
    batches = [positions_of(partition) for partition in ranks]
    assert {len(mine) for mine in batches} == {ranks[0].num_batches(0)}
    steps = [list(chain(*parts)) for parts in zip(*batches, strict=True)]
    if num_samples < world_size:
        assert steps == []  # refused by the stream
        return
    assert list(chain(*steps)) == list(range(num_samples))
    assert max(map(len, steps)) - min(map(len, steps)) <= 1
    assert all(batch for mine in batches for batch in mine)
    most = max(len(batch) for mine in batches for batch in mine)
    assert most <= (batch_size if batch_size > 1 else 2)


@given(st.integers(20, 300), st.lists(st.tuples(st.integers(1, 6), st.integers(1, 4)), min_size=1,
                                      max_size=5), st.data())  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_topologies_may_change_within_an_epoch(
    num_samples: int, topologies: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Whatever the batch sizes and ranks along the way, positions come once, in order."""
    position, seen = 0, []
    for batch_size, world_size in topologies:
        steps = data.draw(st.integers(0, 4))
        ranks = [
            EpochPartition(num_samples, batch_size, rank, world_size, "drop")
            for rank in range(world_size)
        ]
        for tasks in list(zip(*(partition.tasks(0, position) for partition in ranks), strict=True))[
            :steps
        ]:
            for task in tasks:
                seen += range(task.first, task.first + task.num_samples)
            ends = {(task.end_epoch, task.end_position) for task in tasks}
            assert len(ends) == 1
            epoch, position = ends.pop()
            if epoch:
                break
        else:
            continue
        break
    assert seen == list(range(len(seen)))
