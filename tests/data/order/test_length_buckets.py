"""Captions sorted inside windows: still every sample once, anywhere and over any topology."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.data import Mixture, PairStream, ShardIndex, Source
from clipkit.data.order.length_buckets import LengthBucketing, LengthWindows
from clipkit.data.shards.reader import ShardReader
from clipkit.errors import CheckpointError, ConfigError
from clipkit.types import Batch
from tests.helpers.factories import pair, write_shard
from tests.helpers.fakes import ByteTokenizer, NoisyTransform, first_text, flat_stream
from tests.helpers.streams import train

COUNTS = (70, 31, 52, 50)
TOTAL = sum(COUNTS)
WINDOW = 5
BROKEN = frozenset({3, 40, 41, 120})


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> ShardIndex:
    """Captions of 3 to 27 bytes; a few samples have none."""
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    number = 0
    for shard, count in enumerate(COUNTS):
        samples = []
        for _ in range(count):
            text = f"{number:03d}" + "x" * int(rng.integers(25))
            members = {**pair(number), "txt": text.encode()}
            if number in BROKEN:
                members.pop("txt")
            samples.append((f"{number}", members))
            number += 1
        write_shard(folder / f"{shard:05d}.tar", samples)
    return ShardIndex.from_urls(folder)


def make(index: Any, batch_size: int = 8, **options: Any) -> PairStream:
    defaults: dict[str, Any] = {
        "tokenizer": ByteTokenizer(),
        "image_transform": NoisyTransform(),
        "caption": first_text,
        "length_bucket_batches": WINDOW,
        "seed": 3,
    }
    return flat_stream(index, batch_size=batch_size, **{**defaults, **options})


def ids(batch: Batch) -> list[int]:
    assert batch.sample_ids is not None
    return batch.sample_ids.tolist()


def padding(batches: list[Batch]) -> int:
    counts = [int((batch.tokens == 0).sum()) for batch in batches]
    return sum(counts)


class Lengths:
    """Made-up lengths that remember what they were asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, epoch: int, positions: np.ndarray) -> np.ndarray:
        self.asked += positions.tolist()
        return (positions * 7919 + epoch) % 31


@given(
    num_samples=st.integers(1, 400),
    shape=st.builds(LengthWindows, st.integers(2, 6), st.integers(1, 40), st.integers(1, 16)),
    epoch=st.integers(0, 3),
    piece=st.integers(1, 60),
)
@settings(max_examples=60, deadline=None)
def test_places_hold_every_position_once_however_they_are_asked_for(
    num_samples: int, shape: LengthWindows, epoch: int, piece: int
) -> None:
    places = np.arange(num_samples)
    whole = LengthBucketing(shape, num_samples, seed=1).positions(epoch, places, Lengths())
    assert sorted(whole.tolist()) == places.tolist()
    pieces, lengths = LengthBucketing(shape, num_samples, seed=1), Lengths()
    found = [
        pieces.positions(epoch, places[start : start + piece], lengths)
        for start in range(0, num_samples, piece)
    ]
    assert np.concatenate(found).tolist() == whole.tolist()
    if piece < shape.step_samples * shape.num_steps:  # nobody reads a caption again and again
        assert len(lengths.asked) <= 2 * num_samples
    left = num_samples % shape.step_samples
    assert whole[num_samples - left :].tolist() == places[num_samples - left :].tolist()


def test_a_sample_stays_in_its_window_and_lengths_are_alike() -> None:
    shape, lengths = LengthWindows(num_steps=4, step_samples=32, stripe_samples=16), Lengths()
    found = LengthBucketing(shape, 256, seed=1).positions(0, np.arange(256), lengths)
    assert (found // 128 == np.arange(256) // 128).all()
    means = [lengths(0, step).mean() for step in found.reshape(8, 32)]
    assert np.ptp(means[:4]) > 15
    assert np.argsort(means[:4]).tolist() != [0, 1, 2, 3]  # steps come in a shuffled order
    spreads = [np.ptp(lengths(0, step)) for step in found.reshape(8, 32)]
    assert max(spreads) < 15


def test_an_epoch_holds_the_same_samples_with_less_padding(index: ShardIndex) -> None:
    """A sample that stands in for a broken one too."""
    sorted_, plain = list(make(index)), list(make(index, length_bucket_batches=None))
    seen, expected = ([i for batch in batches for i in ids(batch)] for batches in (sorted_, plain))
    assert seen != expected
    assert sorted(seen) == sorted(expected)
    assert len(set(seen)) >= TOTAL - TOTAL % 8 - len(BROKEN)
    assert padding(sorted_) < 0.5 * padding(plain)


def test_tensors_are_those_of_an_epoch_without_sorting(index: ShardIndex) -> None:
    def pictures(stream: PairStream) -> dict[int, bytes]:
        return {
            i: image.numpy().tobytes()
            for batch in stream
            for i, image in zip(ids(batch), batch.images, strict=True)
        }

    mine, theirs = pictures(make(index)), pictures(make(index, length_bucket_batches=None))
    assert mine.keys() == theirs.keys()
    again = [i for i in mine if mine[i] != theirs[i]]
    assert len(again) <= len(BROKEN)  # those that stand in for a broken one, too


def test_resumed_anywhere_in_a_window(index: ShardIndex) -> None:
    """Each part is continued by the next from a file, in the same epoch or in the one after."""
    whole = train(make(index), TOTAL // 8 + 12)
    seen: list[list[int]] = []
    state: dict[str, Any] | None = None
    for steps in (1, 3, 1, 7, TOTAL // 8 - 12, 3, 9):
        stream = make(index)
        if state is not None:
            stream.load_state_dict(state)
        seen += train(stream, steps)
        file = io.BytesIO()
        torch.save(stream.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
    assert seen == whole


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"num_threads": 3}])
def test_workers_change_nothing(index: ShardIndex, options: dict[str, int]) -> None:
    for mine, theirs in zip(make(index), make(index, **options), strict=True):
        assert ids(mine) == ids(theirs)
        assert torch.equal(mine.images, theirs.images)
        assert torch.equal(mine.tokens, theirs.tokens)


def test_ranks_see_at_each_step_what_one_would_see(index: ShardIndex) -> None:
    whole = [ids(batch) for batch in make(index, 12)]
    for world_size in (2, 3, 4):
        ranks = [
            [ids(b) for b in make(index, 12 // world_size, rank=rank, world_size=world_size)]
            for rank in range(world_size)
        ]
        steps = [[i for part in step for i in part] for step in zip(*ranks, strict=True)]
        assert steps == whole


def test_a_resume_on_other_ranks_and_batches_goes_on_exactly(index: ShardIndex) -> None:
    whole = [sample for batch in make(index) for sample in ids(batch)]
    stream = make(index)
    seen = []
    for batch in stream:
        stream.commit(batch)
        seen += ids(batch)
        if len(seen) == 8 * 7:  # in the middle of the second window
            break
    state = stream.state_dict()
    ranks = [make(index, 3, rank=rank, world_size=2) for rank in range(2)]
    for rank in ranks:
        rank.load_state_dict(state)
    for first, second in zip(*ranks, strict=True):
        seen += ids(first) + ids(second)
    assert seen == whole[: len(seen)]
    assert len(seen) > TOTAL - 8


def test_a_resume_reads_the_captions_of_one_window(
    index: ShardIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[bool] = []
    read = ShardReader.read

    def counted(self: ShardReader, sample_id: int, leave_out: Any = ()) -> Any:
        reads.append(bool(leave_out))
        raw = read(self, sample_id, leave_out)
        assert ("jpg" in raw.members) != bool(leave_out)
        return raw

    stream = make(index)
    for _, batch in zip(range(12), stream, strict=False):
        stream.commit(batch)
    resumed = make(index)
    resumed.load_state_dict(stream.state_dict())
    monkeypatch.setattr(ShardReader, "read", counted)
    next(iter(resumed))
    assert sum(reads) == WINDOW * 8
    assert 8 <= len(reads) - sum(reads) <= 8 + 2 * len(BROKEN)


def test_sources_of_a_mixture_keep_their_shares(index: ShardIndex, tmp_path: Path) -> None:
    write_shard(tmp_path / "0.tar", [(f"{i}", pair(i)) for i in range(40)])
    other = ShardIndex.from_urls(tmp_path)
    mixture = Mixture([Source("a", index, weight=3), Source("b", other, weight=1)])
    stream = make(mixture)
    seen = [i for batch in stream for i in ids(batch)]
    plain = [i for batch in make(mixture, length_bucket_batches=None) for i in ids(batch)]
    assert sum(i >= TOTAL for i in seen) == sum(i >= TOTAL for i in plain) == len(seen) // 4


def test_what_cannot_be(index: ShardIndex) -> None:
    with pytest.raises(ConfigError, match="length_bucket_batches: expected at least 2, got 1"):
        make(index, length_bucket_batches=1)
    with pytest.raises(ConfigError, match="length_bucket_batches: needs shuffle=True"):
        make(index, shuffle=False)
    state = make(index).state_dict()
    for broken in ({"num_steps": 2}, {**state["length_windows"], "num_steps": 0}, 3):
        with pytest.raises(CheckpointError, match="length_windows"):
            make(index).load_state_dict({**state, "length_windows": broken})


def test_a_state_s_windows_win(index: ShardIndex, caplog: pytest.LogCaptureFixture) -> None:
    plain = make(index, length_bucket_batches=None)
    whole = [ids(batch) for batch in make(index, length_bucket_batches=None)]
    state = plain.state_dict()
    del state["length_windows"]  # as before there were any
    stream = make(index)
    stream.load_state_dict(state)
    assert [ids(batch) for batch in stream] == whole
    assert "length_bucket_batches: using the checkpoint's None" in caplog.text
