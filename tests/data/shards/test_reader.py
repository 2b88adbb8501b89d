"""Reading in place: from many shards, many threads, other processes, and a moody file system."""

from __future__ import annotations

import errno
import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import clipkit.data.shards.open_files as open_shards
import clipkit.data.shards.reader as reader_module
from clipkit.data import ShardIndex, ShardReader
from clipkit.data.storage.cache import SIDECAR_SUFFIX
from clipkit.errors import ShardError
from tests.helpers.factories import pair, write_shard, write_shards

COUNTS = [5, 8, 3, 9]


@pytest.fixture
def index(tmp_path: Path) -> ShardIndex:
    write_shards(tmp_path, COUNTS)
    return ShardIndex.from_urls(tmp_path)


def test_every_sample_is_read_as_it_was_written(index: ShardIndex) -> None:
    reader = ShardReader(index)
    for sample_id in reversed(range(sum(COUNTS))):
        sample = reader.read(sample_id)
        assert sample.key == f"{sample_id:06d}"
        assert sample.members == pair(sample_id)
        assert (sample.shard, sample.index) == (
            index.shards[index.locate(sample_id)[0]].url,
            index.locate(sample_id)[1],
        )


def test_shards_without_sidecars_are_scanned_when_they_are_read(tmp_path: Path) -> None:
    write_shards(tmp_path, COUNTS)
    index = ShardIndex.from_urls(tmp_path, write_sidecars=False)
    assert not list(tmp_path.glob(f"*{SIDECAR_SUFFIX}"))
    assert ShardReader(index).read(7).members == pair(7)


def test_few_files_and_tables_are_kept(index: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_shards, "_OPEN_FILES", 2)
    monkeypatch.setattr(open_shards, "_KEPT_TABLE_MEMBERS", 40)
    reader = ShardReader(index)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for sample_id in [0, 24, 6, 14, 1, 20, 7, 15] * 3:
        assert reader.read(sample_id).members == pair(sample_id)
    assert len(list(Path("/proc/self/fd").iterdir())) - before <= 2
    assert reader._shards._members <= 40
    assert reader._shards._members == sum(
        len(table.offsets) for table in reader._shards._tables.values()
    )


def test_threads_share_a_reader(index: ShardIndex, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_shards, "_OPEN_FILES", 1)
    reader = ShardReader(index)
    wanted = [(7 * i) % sum(COUNTS) for i in range(400)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(reader.read, wanted))
    assert [sample.key for sample in found] == [f"{i:06d}" for i in wanted]


def test_a_copy_in_another_process_opens_its_own_files(index: ShardIndex) -> None:
    reader = ShardReader(index)
    reader.read(0)
    reader.mark_bad(1, "broken")
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.read(0).members == pair(0)
    assert copy._shards._files[0].descriptor != reader._shards._files[0].descriptor
    with pytest.raises(ShardError, match="broken"):
        copy.read(5)


@pytest.mark.parametrize(("failures", "works"), [(2, True), (3, False)])
def test_short_failures_of_a_file_system_are_tried_again(
    index: ShardIndex, monkeypatch: pytest.MonkeyPatch, failures: int, works: bool
) -> None:
    monkeypatch.setattr(reader_module, "_RETRY_SECONDS", (0.0, 0.0))
    reader = ShardReader(index)
    reader.table(0)
    left = [failures]
    pread = os.pread

    def moody(descriptor: int, length: int, offset: int) -> bytes:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return pread(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", moody)
    if works:
        assert reader.read(0).members == pair(0)
    else:
        with pytest.raises(ShardError, match="cannot be read: Stale file handle"):
            reader.read(0)


def test_too_many_open_files_is_no_fault_of_a_shard(
    index: ShardIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    reader = ShardReader(index)
    monkeypatch.setattr(os, "open", exhausted)
    with pytest.raises(OSError, match="Too many open files"):
        reader.read(0)
    monkeypatch.undo()
    assert reader.read(0).members == pair(0)


def test_empty_members_and_odd_names(tmp_path: Path) -> None:
    samples = [("a/b c", {"txt": b"", "JPG": b"x"}), ("ü", {"seg.png": b"y", "json": b"{}"})]
    path = write_shard(tmp_path / "odd.tar", samples)
    reader = ShardReader(ShardIndex.from_urls(path))
    assert reader.read(0).members == {"txt": b"", "jpg": b"x"}
    assert reader.read(1).key == "ü"
    assert reader.read(1).members == {"seg.png": b"y", "json": b"{}"}
