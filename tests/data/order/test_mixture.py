"""Mixtures: exact proportions at any moment, no sample starves, curricula, exact resume."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.data import BatchSizeStage, Mixture, PairStream, ShardIndex, Source, Stage
from clipkit.data.order.interleave import counts_before, interleave, quotas_of
from clipkit.data.order.mixture import MixtureOrder
from clipkit.errors import CheckpointError, ConfigError
from clipkit.when import When
from tests.helpers.factories import write_shards
from tests.helpers.fakes import ByteTokenizer, NoisyTransform, first_text, flat_stream

quota_lists = st.lists(st.integers(0, 30), min_size=1, max_size=5).filter(any)


@pytest.mark.parametrize(
    ("weights", "quotas"),
    [
        ([0.7, 0.2, 0.1], (7, 2, 1)),
        ([2, 4], (1, 2)),
        ([0.0, 3.0], (0, 1)),
        ([1 / 3, 2 / 3], None),
    ],
)
def test_quotas_are_the_smallest_whole_numbers(
    weights: list[float], quotas: tuple[int, ...] | None
) -> None:
    found = quotas_of(weights)
    if quotas is not None:
        assert found == quotas
    np.testing.assert_allclose(
        np.array(found) / sum(found), np.array(weights) / sum(weights), atol=1e-8
    )
    assert sum(found) <= 2**31


@pytest.mark.parametrize("weights", [[], [0.0], [-1.0, 2.0], [float("nan")]])
def test_senseless_weights_are_refused(weights: list[float]) -> None:
    with pytest.raises(ConfigError, match="weights"):
        quotas_of(weights)


@given(quota_lists, st.integers(0, 10**12))
@settings(max_examples=60, deadline=None)
def test_shares_are_exact_at_any_moment(quotas: list[int], position: int) -> None:
    positions = np.array([position])
    counts = counts_before(quotas, positions)[:, 0]
    exact = position * np.array(quotas) / sum(quotas)
    assert counts.sum() == position
    assert np.abs(counts - exact).max() <= 2
    period = np.array([sum(quotas) * 7])
    np.testing.assert_array_equal(counts_before(quotas, period)[:, 0], np.array(quotas) * 7)


@given(quota_lists, st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_every_sample_of_a_source_is_dealt_once(quotas: list[int], start: int) -> None:
    sources, numbers = interleave(quotas, np.arange(start, start + 200))
    before = counts_before(quotas, np.array([start]))[:, 0]
    for source in range(len(quotas)):
        mine = numbers[sources == source]
        np.testing.assert_array_equal(mine, before[source] + np.arange(len(mine)))


@pytest.fixture(scope="module")
def indexes(tmp_path_factory: pytest.TempPathFactory) -> tuple[ShardIndex, ShardIndex]:
    folder = tmp_path_factory.mktemp("mixture")
    write_shards(folder / "large", [30, 18], start=0)
    write_shards(folder / "small", [6, 4], start=1000)
    return ShardIndex.from_urls(folder / "large"), ShardIndex.from_urls(folder / "small")


def make(mixture: Mixture, **options: Any) -> PairStream:
    defaults: dict[str, Any] = {"batch_size": 4, "seed": 1}
    return flat_stream(
        mixture,
        tokenizer=ByteTokenizer(),
        image_transform=NoisyTransform(),
        caption=first_text,
        **{**defaults, **options},
    )


def keys_of(stream: PairStream, num_samples: int) -> list[int]:
    keys: list[int] = []
    while len(keys) < num_samples:
        for batch in stream:
            stream.commit(batch)
            keys += map(int, batch.keys)
            if len(keys) >= num_samples:
                break
    return keys


def by_weight(indexes: tuple[ShardIndex, ShardIndex], **options: Any) -> Mixture:
    large, small = indexes
    return Mixture(
        [Source("large", large, weight=0.75), Source("small", small, weight=0.25)], **options
    )


def test_weights_hold_in_every_batch_and_nothing_starves(
    indexes: tuple[ShardIndex, ShardIndex],
) -> None:
    stream = make(by_weight(indexes))
    keys = keys_of(stream, 240)
    for start in range(0, 240, 4):
        assert sum(key >= 1000 for key in keys[start : start + 4]) == 1
    small = Counter(key for key in keys if key >= 1000)
    large = Counter(key for key in keys if key < 1000)
    assert set(small.values()) == {6}
    assert len(large) == 48
    assert max(large.values()) - min(large.values()) <= 1
    assert stream.counters()["samples/small"] == 60
    assert stream.counters()["samples/large"] == 180


def test_epochs_of_each(indexes: tuple[ShardIndex, ShardIndex]) -> None:
    large, small = indexes
    mixture = Mixture([Source("large", large, epochs=1), Source("small", small, epochs=3)])
    stream = make(mixture, batch_size=6)
    epoch = Counter(int(key) for batch in stream for key in batch.keys)
    assert len(stream) == 78 // 6
    assert {count for key, count in epoch.items() if key < 1000} == {1}
    assert {count for key, count in epoch.items() if key >= 1000} == {3}
    assert len(epoch) == 58


def test_a_second_pass_through_a_source_is_augmented_anew(
    indexes: tuple[ShardIndex, ShardIndex],
) -> None:
    large, small = indexes
    stream = make(Mixture([Source("large", large, epochs=1), Source("small", small, epochs=2)]))
    pictures: dict[str, list[bytes]] = {}
    for batch in stream:
        for key, image in zip(batch.keys, batch.images, strict=True):
            pictures.setdefault(key, []).append(image.numpy().tobytes())
    twice = [found for found in pictures.values() if len(found) == 2]
    assert twice
    assert all(first != second for first, second in twice)


def test_a_curriculum_changes_the_weights_at_its_step(
    indexes: tuple[ShardIndex, ShardIndex],
) -> None:
    stages = [Stage(5, {"small": 1.0}), Stage(8, {"small": 0.5, "large": 0.5})]
    keys = keys_of(make(by_weight(indexes, stages=stages)), 80)
    shares = [sum(key >= 1000 for key in keys[4 * step : 4 * step + 4]) for step in range(20)]
    assert shares == [1] * 5 + [4] * 3 + [2] * 12


@pytest.mark.parametrize("steps", [3, 14, 20])
def test_a_mixture_resumes_exactly(indexes: tuple[ShardIndex, ShardIndex], steps: int) -> None:
    mixture = by_weight(indexes, stages=[Stage(6, {"large": 0.5, "small": 0.5})])
    whole = keys_of(make(mixture), 160)
    stream = make(mixture)
    before = keys_of(stream, steps * 4)
    # Two ranks of half the batch take the same steps.
    resumed = [make(mixture, rank=rank, world_size=2, batch_size=2) for rank in range(2)]
    for rank in resumed:
        rank.load_state_dict(stream.state_dict())
    halves = [keys_of(rank, 80 - 2 * steps) for rank in resumed]
    after = [
        key
        for step in range(40 - steps)
        for half in halves
        for key in half[2 * step : 2 * step + 2]
    ]
    assert before + after == whole


def test_a_mixtures_epoch_keeps_its_length_over_other_batches(
    indexes: tuple[ShardIndex, ShardIndex],
) -> None:
    """An epoch of 58 samples was cut to 56 for batches of 4; batches of 5 would cut it to 55."""
    whole = keys_of(make(by_weight(indexes)), 2 * 56)
    stream = make(by_weight(indexes))
    before = keys_of(stream, 16)
    resumed = make(by_weight(indexes), batch_size=5)
    resumed.load_state_dict(stream.state_dict())
    assert resumed.num_samples == 56
    after = [int(key) for batch in resumed for key in batch.keys]
    assert before + after == whole[:56]
    assert [int(key) for key in next(iter(resumed)).keys] == whole[56:61]


def ranks_of(
    mixture: Mixture, world_size: int, batch_size: int, state: dict[str, Any] | None, **options: Any
) -> list[PairStream]:
    streams = [
        make(mixture, rank=rank, world_size=world_size, batch_size=batch_size, **options)
        for rank in range(world_size)
    ]
    for stream in streams:
        if state is not None:
            stream.load_state_dict(state)
    return streams


def steps_of(streams: list[PairStream], num_steps: int) -> list[list[int]]:
    """The keys of each step over all ranks, across epochs; all ranks agree on the state."""
    taken: list[list[int]] = [[] for _ in range(num_steps)]
    for stream in streams:
        step = 0
        while step < num_steps:
            left = len(stream) - stream.partition.progress(*place_of(stream))[0]
            for batch in stream:
                stream.commit(batch)
                taken[step] += map(int, batch.keys)
                step, left = step + 1, left - 1
                if step == num_steps:
                    break
            assert left == 0 or step == num_steps
    assert all(stream.state_dict() == streams[0].state_dict() for stream in streams)
    return taken


def place_of(stream: PairStream) -> tuple[int, int]:
    state = stream.state_dict()
    return state["epoch"], state["position"]


@pytest.mark.parametrize("options", [{}, {"length_bucket_batches": 3}])
@pytest.mark.parametrize(("world_size", "batch_size"), [(1, 5), (3, 3), (2, 20), (1, 56), (5, 11)])
def test_a_step_of_another_size_drops_nothing(
    indexes: tuple[ShardIndex, ShardIndex],
    world_size: int,
    batch_size: int,
    options: dict[str, Any],
) -> None:
    """The order goes through the ends of epochs; none of three resumes loses or repeats one."""
    mixture = by_weight(indexes)
    seen: list[int] = []
    state = None
    for ranks, batch, steps in [(1, 4, 9), (world_size, batch_size, 6), (1, 7, 10)]:
        streams = ranks_of(mixture, ranks, batch, state, **options)
        seen += [key for step in steps_of(streams, steps) for key in step]
        state = streams[0].state_dict()
    assert state is not None
    (whole,) = ranks_of(mixture, 1, 4, None, **options)
    assert seen == keys_of(whole, len(seen))[: len(seen)]
    assert (state["dropped"], state["padded"]) == (0, 0)
    assert state["epoch"] * 56 + state["position"] == len(seen)


def test_batches_that_grow_drop_nothing_of_a_mixture(
    indexes: tuple[ShardIndex, ShardIndex],
) -> None:
    mixture = by_weight(indexes)
    whole = keys_of(make(mixture, batch_size=8), 3 * 56)
    stages = [BatchSizeStage(3, When(samples=20)), BatchSizeStage(5, When(samples=70))]
    stream = make(mixture, batch_size=8, batch_size_stages=stages)
    keys = [key for step in steps_of([stream], 24) for key in step]
    assert keys == whole[: len(keys)]
    assert stream.state_dict()["dropped"] == 0


def test_a_step_larger_than_an_epoch_is_refused(indexes: tuple[ShardIndex, ShardIndex]) -> None:
    """It trained on nothing and ended well."""
    mixture = by_weight(indexes, epoch_samples=20)
    stream = make(mixture)
    keys_of(stream, 8)
    large = make(by_weight(indexes, epoch_samples=40), batch_size=12, rank=0, world_size=2)
    before = large.state_dict()
    with pytest.raises(
        ConfigError, match="2 ranks of 12 samples need 24 per step, an epoch has 20"
    ):
        large.load_state_dict(stream.state_dict())
    assert large.state_dict() == before


def test_each_rank_reads_from_lanes_of_its_own(indexes: tuple[ShardIndex, ShardIndex]) -> None:
    """So that a remote shard is fetched by one machine, not by all."""
    lanes_of: list[list[set[int]]] = []
    for rank in range(2):
        stream = make(by_weight(indexes), batch_size=8, rank=rank, world_size=2, shuffle_window=2)
        order = stream._order
        assert isinstance(order, MixtureOrder)
        seen: list[set[int]] = [set(), set()]
        for task in list(stream._partition.tasks(0, 0))[:2]:
            places = np.arange(task.first, task.first + task.num_samples)
            sources, numbers = order._locate(places)
            for source, lanes in enumerate(order._lanes):
                seen[source] |= set(lanes._locate(numbers[sources == source])[0].tolist())
        lanes_of.append(seen)
    for mine, others in zip(*lanes_of, strict=True):
        assert mine
        assert not mine & others


def test_a_state_of_other_weights_is_refused(indexes: tuple[ShardIndex, ShardIndex]) -> None:
    state = make(by_weight(indexes)).state_dict()
    large, small = indexes
    other = Mixture([Source("large", large, weight=0.5), Source("small", small, weight=0.5)])
    with pytest.raises(CheckpointError, match="use stages"):
        make(other).load_state_dict(state)


def test_senseless_mixtures_are_refused(indexes: tuple[ShardIndex, ShardIndex]) -> None:
    large, small = indexes
    with pytest.raises(ConfigError, match="different names"):
        Mixture([Source("a", large, weight=1), Source("a", small, weight=1)])
    with pytest.raises(ConfigError, match="a weight for every source"):
        Mixture([Source("a", large, weight=1), Source("b", small, epochs=1)])
    with pytest.raises(ConfigError, match="names \\['c'\\]"):
        by_weight(indexes, stages=[Stage(3, {"c": 1.0})])
    with pytest.raises(ConfigError, match="ascend"):
        by_weight(indexes, stages=[Stage(3, {"large": 1.0}), Stage(3, {"small": 1.0})])
    with pytest.raises(ConfigError, match="expected steps or samples, got a fraction"):
        by_weight(indexes, stages=[Stage(0.5, {"large": 1.0})])
    with pytest.raises(ConfigError, match="shuffle=False"):
        make(by_weight(indexes), shuffle=False)


def test_two_sources_with_one_base_name_are_kept_apart(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", [8], start=0)
    write_shards(tmp_path / "b", [8], start=100)
    a, b = (ShardIndex.from_urls(tmp_path / name) for name in "ab")
    mixture = Mixture([Source("a", a, epochs=1), Source("b", b, epochs=1)])
    keys = sorted(keys_of(make(mixture), 16))
    assert keys == [*range(8), *range(100, 108)]


def test_stages_begin_by_steps_or_by_samples(indexes: tuple[ShardIndex, ShardIndex]) -> None:
    weights = {"large": 0.5, "small": 0.5}
    by_steps, by_samples = (
        make(by_weight(indexes, stages=[Stage(begin, weights)]))
        for begin in (6, When(samples=6 * 4))
    )
    keys = [[batch.keys for batch in stream] for stream in (by_steps, by_samples)]
    assert keys[0] == keys[1]
    assert keys[0] != [batch.keys for batch in make(by_weight(indexes))]
