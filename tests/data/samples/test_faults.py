"""What is broken is skipped, named, counted and limited; what is not the data's fault is raised."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from clipkit.data import PairStream, ShardIndex
from clipkit.data.samples.faults import Fault, FaultOptions, FaultTracker
from clipkit.data.samples.id_sets import pack_ids, unpack_ids
from clipkit.data.shards.members import read_label
from clipkit.errors import DataError, FaultBudgetExceeded, SampleError, ShardError
from tests.helpers.bad_samples import BAD, TOTAL, write_bad_shards
from tests.helpers.factories import pair, write_shard
from tests.helpers.fakes import ByteTokenizer, NoisyTransform, first_text, flat_stream
from tests.helpers.streams import ids, train, train_ranks


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    return write_bad_shards(tmp_path / "data")


def make(index: ShardIndex, batch_size: int = 4, **options: Any) -> PairStream:
    defaults: dict[str, Any] = {
        "tokenizer": ByteTokenizer(),
        "image_transform": NoisyTransform(),
        "caption": first_text,
        "seed": 3,
        "max_bad_fraction": 0.2,
    }
    return flat_stream(index, batch_size=batch_size, **{**defaults, **options})


def test_bad_samples_are_replaced_named_and_counted(shards: list[Path], tmp_path: Path) -> None:
    log = tmp_path / "logs" / "faults.jsonl"
    stream = make(ShardIndex.from_urls(shards), log=log)
    seen = Counter(i for batch in train(stream, 16) for i in batch)
    assert set(seen) == set(range(TOTAL)) - BAD
    assert seen.total() == TOTAL
    assert stream.counters() == {
        "bad_samples": len(BAD), "bad_shards": 0, "padded": len(BAD), "dropped": 0,
    }  # fmt: skip
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {int(line["key"]) for line in lines} == BAD
    assert len(lines) == len(BAD)
    for line in lines:
        assert Path(line["shard"]).name == f"{int(line['key']) // 16:05d}.tar"
        assert line["index"] == int(line["key"]) % 16
        word = ("no image", "broken image", "no caption", "label cls")[int(line["key"]) % 4]
        assert word in line["reason"]


def test_a_log_that_cannot_be_written_ends_no_run(
    shards: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = tmp_path / "faults.jsonl"
    log.mkdir()  # no line can be written there
    stream = make(ShardIndex.from_urls(shards), log=log)
    assert len(train(stream, 16)) == 16
    assert stream.counters()["bad_samples"] == len(BAD)
    assert caplog.text.count("faults.jsonl: not written") == 1


def test_a_second_epoch_names_nothing_again(shards: list[Path], tmp_path: Path) -> None:
    log = tmp_path / "faults.jsonl"
    stream = make(ShardIndex.from_urls(shards), log=log)
    train(stream, 48)
    assert len(log.read_text().splitlines()) == len(BAD)
    assert stream.counters()["bad_samples"] == len(BAD)
    assert stream.counters()["padded"] == 3 * len(BAD)


def test_the_good_samples_stay_where_they_were(shards: list[Path], tmp_path: Path) -> None:
    """A bad sample's place is filled; nobody else moves."""
    clean = [
        write_shard(
            tmp_path / "clean" / f"{shard:05d}.tar",
            [(f"{i:06d}", pair(i)) for i in range(16 * shard, 16 * shard + 16)],
        )
        for shard in range(4)
    ]
    with_faults = train(make(ShardIndex.from_urls(shards)), 32)
    without = train(make(ShardIndex.from_urls(clean)), 32)
    for mine, whole in zip(with_faults, without, strict=True):
        for a, b in zip(mine, whole, strict=True):
            assert a == b or b in BAD


@pytest.mark.parametrize("options", [{"num_workers": 2}, {"num_threads": 4}])
def test_workers_and_threads_fill_alike(shards: list[Path], options: dict[str, int]) -> None:
    index = ShardIndex.from_urls(shards)
    plain, other = make(index), make(index, **options)
    for mine, theirs in zip(plain, other, strict=True):
        assert mine.keys == theirs.keys
        assert torch.equal(mine.images, theirs.images)


@pytest.mark.parametrize("options", [{}, {"shuffle_window": 7}])
def test_an_elastic_resume_with_bad_data_is_exact(
    shards: list[Path], options: dict[str, Any]
) -> None:
    index = ShardIndex.from_urls(shards)
    common = {"max_bad_fraction": 0.2, **options}
    whole, _ = train_ranks(index, 2, 4, 20, **common)
    before, state = train_ranks(index, 2, 4, 5, **common)
    # What was prefetched and dropped has met faults too.
    stream = make(index, 4, rank=0, world_size=2, **options)
    stream.load_state_dict(state)
    iterator = iter(stream)
    next(iterator)
    next(iterator)
    middle, state = train_ranks(index, 4, 2, 4, state, **common)
    after, state = train_ranks(index, 1, 8, 11, state, **common)
    assert before + middle + after == whole


def test_a_substitute_is_augmented_on_its_own(shards: list[Path]) -> None:
    pictures: dict[int, set[bytes]] = {}
    for batch in make(ShardIndex.from_urls(shards)):
        for i, image in zip(ids(batch), batch.images, strict=True):
            pictures.setdefault(i, set()).add(image.numpy().tobytes())
    # 57 good samples in 64 places: each place has pixels of its own.
    assert sum(map(len, pictures.values())) == TOTAL


def test_the_budget_of_samples_ends_a_run(shards: list[Path]) -> None:
    stream = make(ShardIndex.from_urls(shards), max_bad_fraction=4 / TOTAL)
    with pytest.raises(FaultBudgetExceeded, match=r"5 bad samples of 64, allowed 4 .*\.tar: 0000"):
        train(stream, 16)


def test_the_budget_counts_over_a_resume(shards: list[Path]) -> None:
    index = ShardIndex.from_urls(shards)
    stream = make(index, max_bad_fraction=6 / TOTAL)
    for batch in stream:
        stream.commit(batch)
        if stream.counters()["bad_samples"] == 6:
            break
    resumed = make(index, max_bad_fraction=6 / TOTAL)
    resumed.load_state_dict(stream.state_dict())
    assert resumed.counters()["bad_samples"] == 6
    with pytest.raises(FaultBudgetExceeded, match="7 bad samples"):
        train(resumed, 16)


def test_an_evaluation_leaves_gaps(shards: list[Path]) -> None:
    stream = make(ShardIndex.from_urls(shards), batch_size=1, shuffle=False)
    seen = [i for batch in stream for i in ids(batch)]
    assert seen == sorted(set(range(TOTAL)) - BAD)
    assert stream.counters()["padded"] == 0


def test_a_shard_that_vanishes_is_named(shards: list[Path]) -> None:
    index = ShardIndex.from_urls(shards)
    stream = make(index)
    shards[2].unlink()
    with pytest.raises(FaultBudgetExceeded, match=r"1 bad shards.*00002\.tar: vanished"):
        train(stream, 16)


def test_a_shard_may_vanish_within_the_budget(shards: list[Path], tmp_path: Path) -> None:
    index = ShardIndex.from_urls(shards)
    log = tmp_path / "faults.jsonl"
    stream = make(index, max_bad_shards=1, log=log, num_workers=2)
    shards[2].unlink()
    seen = {i for batch in train(stream, 16) for i in batch}
    assert seen <= set(range(TOTAL)) - set(range(32, 48)) - BAD
    state = stream.state_dict()
    assert [Path(url).name for url, _ in state["bad_shards"]] == ["00002.tar"]
    resumed = make(index, max_bad_shards=1)
    resumed.load_state_dict(state)
    assert resumed.counters()["bad_shards"] == 1
    train(resumed, 4)


def test_a_shard_that_changes_between_index_and_reading_is_named(shards: list[Path]) -> None:
    index = ShardIndex.from_urls(shards)
    stream = make(index)
    write_shard(shards[1], [(f"{i:06d}", pair(i)) for i in range(16, 31)])
    with pytest.raises(FaultBudgetExceeded, match=r"00001\.tar: changed since it was indexed"):
        train(stream, 16)


def test_a_shard_that_changes_while_it_is_open_is_named(shards: list[Path]) -> None:
    """Overwritten in place, with the very same length."""
    index = ShardIndex.from_urls(shards)
    stream = make(index)
    train(stream, 10)
    data = shards[0].read_bytes()
    with shards[0].open("r+b") as file:
        file.write(data)
    os.utime(shards[0], ns=(0, 10**18))
    with pytest.raises(FaultBudgetExceeded, match=r"00000\.tar: changed while"):
        train(stream, 16)


def test_a_replaced_shard_is_read_on_from_its_open_file(shards: list[Path]) -> None:
    """Replaced by a rename: what was opened is still whole, so nothing is lost."""
    index = ShardIndex.from_urls(shards)
    whole = train(make(index), 16)
    stream = make(index)
    before = train(stream, 10)
    for path in shards:
        copy = path.with_suffix(".new")
        copy.write_bytes(b"something else")
        copy.replace(path)
    assert before + train(stream, 6) == whole


class Breaking:
    """A transform that fails with a given error at one sample."""

    image_size = 8

    def __init__(self, error: BaseException) -> None:
        self.error = error

    def __call__(self, data: bytes, rng: np.random.Generator) -> torch.Tensor:
        if data == pair(20)["jpg"]:
            raise self.error
        return NoisyTransform()(data, rng)


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EMFILE, "Too many open files"),
        MemoryError("out of memory"),
        TypeError("a bug in somebody's code"),
        AssertionError("a bug in clipkit"),
    ],
)
def test_system_errors_and_bugs_are_never_swallowed(
    shards: list[Path], error: Exception, num_workers: int
) -> None:
    stream = make(
        ShardIndex.from_urls(shards), image_transform=Breaking(error), num_workers=num_workers
    )
    with pytest.raises(type(error), match=str(error.args[-1])) as caught:
        train(stream, 16)
    assert not num_workers or "in __call__" in caught.value.__notes__[0]


class UnpicklableError(Exception):
    def __init__(self, first: str, second: str) -> None:
        super().__init__(first + second)


def test_errors_that_cannot_cross_processes_are_told_in_words(shards: list[Path]) -> None:
    transform = Breaking(UnpicklableError("no ", "way"))
    stream = make(ShardIndex.from_urls(shards), image_transform=transform, num_workers=1)
    with pytest.raises(RuntimeError, match="UnpicklableError: no way"):
        train(stream, 16)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("bad"),
        OSError("image file is truncated"),
        SyntaxError("broken PNG"),
        RecursionError("too deep"),
        OverflowError("too large"),
    ],
)
def test_errors_of_content_are_faults_of_a_sample(shards: list[Path], error: Exception) -> None:
    stream = make(ShardIndex.from_urls(shards), image_transform=Breaking(error))
    train(stream, 16)
    faults = {int(key): reason for _, _, key, reason in stream.state_dict()["bad_samples"]}
    assert faults[20] == f"{type(error).__name__}: {error}"


def test_a_lane_without_a_good_sample_ends_the_run(tmp_path: Path) -> None:
    def only_zero(members: Mapping[str, bytes], rng: np.random.Generator) -> str:
        if not members["txt"].endswith(b"number 0"):
            raise SampleError("not wanted")
        return "zero"

    one = pair(1)
    samples = [(f"{i:06d}", {"jpg": one["jpg"], "txt": b"number %d" % i}) for i in range(2000)]
    write_shard(tmp_path / "0.tar", samples)
    stream = make(ShardIndex.from_urls(tmp_path), caption=only_zero, max_bad_fraction=1.0)
    with pytest.raises(DataError, match=r"no usable sample in a lane, in 256 tries; .* not wanted"):
        train(stream, 5)


@pytest.mark.parametrize(
    ("members", "field", "label"),
    [
        ({"cls": b"3"}, "cls", 3),
        ({"cls": b" 3\n"}, "cls", 3),
        ({"cls": b"-100"}, "cls", -100),
        ({"cls": b""}, "cls", -100),
        ({}, "cls", -100),
        ({"json": b'{"a": 4}'}, "json:a", 4),
        ({"json": b'{"a": "4"}'}, "json:a", 4),
        ({"json": b'{"a": null}'}, "json:a", -100),
        ({"json": b"{}"}, "json:a", -100),
    ],
)
def test_labels(members: dict[str, bytes], field: str, label: int) -> None:
    assert read_label(members, field) == label


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"cls": b"cat"}, "cls"),
        ({"cls": b"-1"}, "cls"),
        ({"cls": b"1.5"}, "cls"),
        ({"cls": b"\xff\xfe"}, "cls"),
        ({"json": b"{"}, "json:a"),
        ({"json": b"[1]"}, "json:a"),
        ({"json": b'{"a": 1.5}'}, "json:a"),
        ({"json": b'{"a": true}'}, "json:a"),
    ],
)
def test_labels_that_are_none(members: dict[str, bytes], field: str) -> None:
    with pytest.raises(SampleError):
        read_label(members, field)


def test_a_reason_does_not_quote_a_whole_member(shards: list[Path]) -> None:
    """The first thousand reasons are kept in every checkpoint."""
    members = {"json": json.dumps({"a": list(range(100_000))}).encode()}
    with pytest.raises(SampleError) as caught:
        read_label(members, "json:a")
    assert len(caught.value.reason) < 500
    assert "expected an integer, got [0, 1, 2" in caught.value.reason
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.reason, str(again)) == (caught.value.reason, str(caught.value))


def test_ranks_learn_of_each_others_faults_together() -> None:
    faults = [Fault("a.tar", i, f"{i}", "broken", sample_id=10 + i) for i in range(4)]
    ledgers = [FaultTracker(FaultOptions(0.03), 100, alone=False) for _ in range(2)]
    ledgers[0].record(faults[:2], 0)
    ledgers[1].record(faults[1:3], 0)
    ledgers[1].add_padded(2)
    assert ledgers[0].to_state() == ledgers[1].to_state()
    assert ledgers[0].num_bad_samples == 2
    reports = [ledger.unshared() for ledger in ledgers]
    for ledger in ledgers:
        ledger.share(reports)
    assert ledgers[0].to_state() == ledgers[1].to_state()
    assert [fault[1] for fault in ledgers[0].to_state()["bad_samples"]] == [0, 1, 2]
    assert ledgers[0].to_state()["padded"] == 2
    assert ledgers[0].unshared() == ([], 0)
    ledgers[0].record(faults[2:3], 0)
    with pytest.raises(FaultBudgetExceeded):
        ledgers[0].record(faults[3:], 0)


def test_a_budget_of_all_ranks_ends_all_ranks() -> None:
    ledgers = [FaultTracker(FaultOptions(0.03), 100, alone=False) for _ in range(2)]
    for rank, ledger in enumerate(ledgers):
        found = [Fault("a.tar", i, f"{i}", "broken", sample_id=i) for i in (rank, rank + 50)]
        ledger.record(found, 0)
    reports = [ledger.unshared() for ledger in ledgers]
    for ledger in ledgers:
        with pytest.raises(FaultBudgetExceeded, match="4 bad samples of 100, allowed 3"):
            ledger.share(reports)


def test_millions_of_faults_stay_small() -> None:
    """Names are kept of the first thousand, ids of all; a second epoch counts nothing twice."""
    total = 20_000
    found = [Fault("a.tar", i, f"{i}", "broken", sample_id=37 * i) for i in range(total)]
    ledger = FaultTracker(FaultOptions(1.0), 37 * total)
    ledger.record(found, 0)
    state = ledger.to_state()
    assert len(state["bad_samples"]) == 1000
    assert len(state["bad_ids"]) < 2 * total
    resumed = FaultTracker(FaultOptions(1.0), 37 * total)
    resumed.load_state(state)
    resumed.record(found, 1)
    assert resumed.num_bad_samples == total
    assert resumed.to_state() == state


@given(st.sets(st.integers(0, 2**50)))
def test_ids_survive_being_packed(ids: set[int]) -> None:
    assert unpack_ids(pack_ids(ids)) == ids


def test_shard_errors_pass_through_workers_as_they_are(shards: list[Path]) -> None:
    """One clear line, not a worker's traceback inside a message."""
    index = ShardIndex.from_urls(shards)
    stream = make(index, num_workers=1)
    for path in shards[1:]:
        path.unlink()
    with pytest.raises(FaultBudgetExceeded) as caught:
        train(stream, 16)
    assert "\n" not in str(caught.value)
    assert not isinstance(caught.value, ShardError)
