"""Streams over masks: kept samples only, as over a filtered copy, resumed anywhere."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.data import Mixture, SampleMask, ShardCache, ShardIndex, Source, TeacherEmbeddings
from clipkit.errors import CheckpointError, ConfigError, DataError, FaultBudgetExceeded
from tests.helpers.bad_samples import BAD, broken_pair
from tests.helpers.factories import pair, write_shard, write_shards
from tests.helpers.fakes import ByteTokenizer
from tests.helpers.masks import mask_without
from tests.helpers.servers import Misbehaviour, http_server
from tests.helpers.streams import ids, make, train, train_ranks

COUNTS = [7, 13, 5, 20, 16]
TOTAL = sum(COUNTS)
# The third shard, some samples at the ends of shards, and every third of the last ones.
REMOVED = {0, *range(20, 25), 19, 6, *range(30, TOTAL, 3)}
KEPT = [number for number in range(TOTAL) if number not in REMOVED]


def write(folder: Path, counts: list[int], removed: set[int], bad: set[int]) -> ShardIndex:
    """Write shards without some samples; a shard of which nothing is left is not written."""
    number = 0
    for shard, count in enumerate(counts):
        samples = [
            (f"{n:06d}", broken_pair(n) if n in bad else pair(n))
            for n in range(number, number + count)
            if n not in removed
        ]
        if samples:
            write_shard(folder / f"{shard}.tar", samples)
        number += count
    return ShardIndex.from_urls(folder)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    folder = tmp_path_factory.mktemp("shards")
    write_shards(folder, COUNTS)
    return ShardIndex.from_urls(folder)


@pytest.fixture(scope="module")
def masked(index: ShardIndex) -> ShardIndex:
    return index.with_mask(mask_without(index, REMOVED))


def keys_and_captions(stream: Any, steps: int) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    seen = []
    while len(seen) < steps:
        for batch in stream:
            stream.commit(batch)
            seen.append((tuple(batch.keys), tuple(batch.captions)))
    return seen[:steps]


def test_an_epoch_has_every_kept_sample_once(masked: ShardIndex) -> None:
    stream = make(masked, tail="keep")
    batches = list(stream)
    assert sorted(number for batch in batches for number in ids(batch)) == KEPT
    assert all(int(key) == i for b in batches for key, i in zip(b.keys, ids(b), strict=True))
    assert stream.num_samples == len(KEPT)
    assert len(stream) == len(batches) == -(-len(KEPT) // 4)


def test_samples_are_those_of_the_unmasked_stream(index: ShardIndex, masked: ShardIndex) -> None:
    """Augmentation and captions depend on the id, which a mask does not change."""
    every, some = (
        {
            key: image
            for batch in make(data, tail="keep")
            for key, image in zip(batch.keys, batch.images, strict=True)
        }
        for data in (index, masked)
    )
    assert all((some[key] == every[key]).all() for key in some)


@pytest.mark.parametrize(
    "options",
    [{}, {"shuffle_window": 5}, {"length_bucket_batches": 3}, {"shuffle": False}, {"tail": "pad"}],
)
@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_it_gives_what_a_filtered_copy_gives(
    masked: ShardIndex, tmp_path: Path, options: dict[str, Any], world_size: int
) -> None:
    copy = write(tmp_path, COUNTS, REMOVED, set())
    for rank in range(world_size):
        streams = [
            make(data, 3, rank=rank, world_size=world_size, **options) for data in (masked, copy)
        ]
        ours, theirs = (keys_and_captions(stream, 2 * len(stream)) for stream in streams)
        assert ours == theirs


def test_bad_samples_are_replaced_as_in_a_filtered_copy(tmp_path: Path) -> None:
    removed = {1, 5, 9, 18, 40, 60, 61, 62}
    index = write(tmp_path / "all", [16, 16, 16, 16], set(), BAD)
    copy = write(tmp_path / "copy", [16, 16, 16, 16], removed, BAD)
    masked = index.with_mask(mask_without(index, removed))
    options = {"max_bad_fraction": 0.2, "shuffle_window": 7}
    streams = [make(data, **options) for data in (masked, copy)]
    ours, theirs = (keys_and_captions(stream, 3 * len(stream)) for stream in streams)
    assert ours == theirs
    keys = {int(key) for batch, _ in ours for key in batch}
    assert not keys & (removed | BAD)
    assert streams[0].counters() == streams[1].counters()
    assert streams[0].counters()["bad_samples"] == len(BAD - removed)


def test_allowed_faults_are_a_fraction_of_the_kept_samples(tmp_path: Path) -> None:
    index = write(tmp_path, [16, 16, 16, 16], set(), BAD)
    masked = index.with_mask(mask_without(index, set(range(32, 64)) - BAD))
    with pytest.raises(FaultBudgetExceeded, match="bad samples of 36, allowed 3"):
        train(make(masked, max_bad_fraction=0.06), 9)


@given(
    topologies=st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=2, max_size=4),
    steps=st.integers(1, 5),
    workers=st.sampled_from([{}, {"shuffle_window": 6}, {"length_bucket_batches": 2}]),
)
@settings(max_examples=12, deadline=None)
def test_any_other_topology_loses_and_repeats_nothing(
    masked: ShardIndex,
    topologies: list[tuple[int, int]],
    steps: int,
    workers: dict[str, Any],
) -> None:
    """Over one epoch: what it leaves out is less than one step of a topology."""
    state, seen = None, []
    for world_size, batch_size in topologies:
        position = 0 if state is None else state["position"]
        left = (len(KEPT) - position) // (world_size * batch_size)
        if left <= steps:
            break
        batches, state = train_ranks(masked, world_size, batch_size, steps, state, **workers)
        seen += [number for batch in batches for number in batch]
    assert len(seen) == len(set(seen))
    assert set(seen) <= set(KEPT)


@pytest.mark.parametrize(
    ("first", "second"), [((1, 8), (2, 4)), ((4, 2), (2, 4)), ((2, 3), (1, 6))]
)
@pytest.mark.parametrize("steps", [1, 4, 9])
def test_a_resume_on_other_ranks_takes_the_identical_global_batches(
    masked: ShardIndex, first: tuple[int, int], second: tuple[int, int], steps: int
) -> None:
    total = 3 * (len(KEPT) // (first[0] * first[1]))
    complete, _ = train_ranks(masked, *first, total)
    before, state = train_ranks(masked, *first, steps)
    after, _ = train_ranks(masked, *second, total - steps, state)
    assert before + after == complete


def test_workers_do_not_change_the_batches(masked: ShardIndex) -> None:
    assert train(make(masked, num_workers=2), 8) == train(make(masked), 8)


def test_validation_with_equal_steps_covers_the_kept_samples(masked: ShardIndex) -> None:
    seen = []
    for rank in range(3):
        stream = make(masked, rank=rank, world_size=3, shuffle=False, tail="even")
        seen += [number for batch in stream for number in ids(batch)]
    assert sorted(seen) == KEPT


class TestStates:
    def test_masks_are_named(self, index: ShardIndex, masked: ShardIndex) -> None:
        state = make(masked).state_dict()
        assert state["masks"] == [mask_without(index, REMOVED).fingerprint]
        assert (state["version"], state["num_samples"]) == (2, TOTAL)
        plain = make(index).state_dict()
        assert "masks" not in plain
        assert plain["version"] == 1

    @pytest.mark.parametrize(
        ("stored", "now", "match"),
        [
            ({1, 2}, {1, 3}, "expected a mask with fingerprint .*, got mask with "),
            ({1, 2}, None, "expected a mask with fingerprint .*, got none"),
            (None, {1, 2}, "expected no mask, as at the first launch, got mask with "),
        ],
    )
    def test_another_mask_is_refused(self, index, stored, now, match) -> None:
        first, second = (
            index if removed is None else index.with_mask(mask_without(index, removed))
            for removed in (stored, now)
        )
        stream = make(first)
        train(stream, 2)
        with pytest.raises(CheckpointError, match=match):
            make(second).load_state_dict(stream.state_dict())

    def test_equal_masks_of_other_filters_continue(self, index: ShardIndex) -> None:
        """What counts is which samples are kept."""
        stream = make(index.with_mask(mask_without(index, {1})))
        codes = np.zeros(TOTAL, dtype=np.uint8)
        codes[1] = 2
        other = make(index.with_mask(SampleMask.of(index, codes, ["a", "b"])))
        other.load_state_dict(stream.state_dict())

    @pytest.mark.parametrize("change", [{"masks": None}, {"masks": ["a", "b"]}, {"masks": 5}])
    def test_damaged_states_are_refused(self, masked: ShardIndex, change: dict[str, Any]) -> None:
        state = {**make(masked).state_dict(), **change}
        state = {name: value for name, value in state.items() if value is not None}
        with pytest.raises(CheckpointError, match=r"masks missing|expected masks of the 1 sources"):
            make(masked).load_state_dict(state)

    def test_the_source_of_a_mixture_is_named(self, index: ShardIndex, masked: ShardIndex) -> None:
        first, second = (
            make(Mixture([Source("web", data, weight=2), Source("books", index, weight=1)]))
            for data in (masked, index)
        )
        state = first.state_dict()
        assert state["masks"][1] == ""
        with pytest.raises(CheckpointError, match="source 'web': expected a mask with"):
            second.load_state_dict(state)


def test_a_mixture_of_masked_sources_resumes(
    index: ShardIndex, masked: ShardIndex, tmp_path: Path
) -> None:
    write_shards(tmp_path, [9, 9], start=1000)
    books = ShardIndex.from_urls(tmp_path)
    small = books.with_mask(mask_without(books, {0, 17}))
    mixture = Mixture([Source("web", masked, weight=2.0), Source("books", small, weight=1.0)])
    complete, _ = train_ranks(mixture, 1, 6, 20)  # type: ignore[arg-type]
    before, state = train_ranks(mixture, 1, 6, 7)  # type: ignore[arg-type]
    after, _ = train_ranks(mixture, 2, 3, 13, state)  # type: ignore[arg-type]
    assert before + after == complete
    seen = {number for batch in complete for number in batch}
    assert seen == set(KEPT) | set(range(TOTAL + 1, TOTAL + 17))


class TestRefusals:
    def test_fewer_kept_samples_than_a_step(self, index: ShardIndex) -> None:
        few = index.with_mask(mask_without(index, set(range(3, TOTAL))))
        with pytest.raises(ConfigError, match=r"at most the 3 samples .* \(a mask removes 58"):
            make(few)
        with pytest.raises(ConfigError, match=r"an epoch has 3 \(a mask removes 58 more\)"):
            make(few, 2, rank=0, world_size=2)

    def test_first_samples_that_are_removed_may_be_unusable(self, tmp_path: Path) -> None:
        write_shards(tmp_path, [12])
        plain = [(f"{n:03d}", {"txt": b"no image"}) for n in range(9)]
        write_shard(tmp_path / "-.tar", plain)
        index = ShardIndex.from_urls([tmp_path / "-.tar", tmp_path / "00000.tar"])
        with pytest.raises(DataError, match="none of the first 8 samples can be used"):
            make(index)
        kept = index.with_mask(mask_without(index, set(range(9))))
        assert len(make(kept)) == 3
        with pytest.raises(DataError, match="none of the first 8 samples can be used"):
            make(index.with_mask(mask_without(index, set(range(9, 21)))))


def test_captions_of_kept_samples_are_read(masked: ShardIndex) -> None:
    facts = make(masked).read_captions(ByteTokenizer(), TOTAL)
    expected = [len(ByteTokenizer().encode(pair(n)["txt"].decode())) for n in KEPT]
    assert facts.lengths == expected


def test_sizes_of_stored_embeddings_are_those_of_the_first_kept_samples(tmp_path: Path) -> None:
    def members(number: int) -> dict[str, bytes]:
        file = io.BytesIO()
        np.save(file, np.zeros(3 if number < 9 else 5, dtype=np.float32))
        return pair(number) | dict.fromkeys(
            ("teacher_image.npy", "teacher_text.npy"), file.getvalue()
        )

    write_shard(tmp_path / "0.tar", [(f"{n:03d}", members(n)) for n in range(20)])
    index = ShardIndex.from_urls(tmp_path)
    kept = index.with_mask(mask_without(index, set(range(9))))
    stream = make(kept, fields=[TeacherEmbeddings()])
    assert all(batch.teacher.image.shape == (4, 5) for batch in stream)
    assert stream.counters()["bad_samples"] == 0


def test_a_remote_shard_without_kept_samples_is_never_transferred(tmp_path: Path) -> None:
    """Its samples are known by number only, so that the mask is compared as far as possible."""
    counts = [5, 6, 5]
    write_shards(tmp_path / "data", counts)
    files = {f"/{path.name}": path.read_bytes() for path in (tmp_path / "data").glob("*.tar")}
    known = {f"{shard:05d}.tar": count for shard, count in enumerate(counts)}
    requests = Misbehaviour()
    with http_server(files, requests) as url:
        cache = ShardCache(tmp_path / "cache", retries=0)
        names = f"{url}/{{00000..00002}}.tar"
        index = ShardIndex.from_urls(names, counts=known, cache=cache)
        masked = index.with_mask(mask_without(index, range(5, 11)))
        seen = train(make(masked), 4)
    assert {number for batch in seen for number in batch} <= {*range(5), *range(11, 16)}
    assert {name for name in requests.gets if name.endswith(".tar")} == {"/00000.tar", "/00002.tar"}
