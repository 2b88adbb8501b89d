"""The bytes of a shard."""

from __future__ import annotations

import errno
import os
import tarfile
import time
from pathlib import Path

import pytest

from clipkit.data.packing.writer import ShardWriter
from clipkit.errors import DataError


def write(path: Path) -> Path:
    with ShardWriter(path) as shard:
        shard.write("000000", {"txt": b"a dog", "jpg": b"pixels"})
        shard.write("folder/" + "long" * 40, {"jpg": b"", "json": "ä".encode()})
        assert shard.num_samples == 2
    return path


def test_equal_samples_give_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = write(tmp_path / "a" / "0.tar").read_bytes()
    monkeypatch.setattr(time, "time", lambda: 4e9)
    monkeypatch.setattr(os, "getuid", lambda: 4711)
    assert write(tmp_path / "b" / "1.tar").read_bytes() == first


def test_others_read_it(tmp_path: Path) -> None:
    import webdataset

    path = write(tmp_path / "0.tar")
    with tarfile.open(path) as tar:
        assert tar.getnames()[:2] == ["000000.jpg", "000000.txt"]
        assert {(m.mtime, m.uid, m.gid, m.mode, m.uname) for m in tar} == {(0, 0, 0, 0o644, "")}
    samples = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["000000", "folder/" + "long" * 40]
    assert samples[0]["txt"] == b"a dog"


def interrupted(path: Path) -> None:
    with ShardWriter(path) as shard:
        shard.write("a", {"txt": b"x"})
        assert not path.exists()
        raise RuntimeError("stop")


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "0.tar"
    with pytest.raises(RuntimeError, match="stop"):
        interrupted(path)
    assert list(tmp_path.iterdir()) == []


def test_a_failure_keeps_the_shard_of_before(tmp_path: Path) -> None:
    path = write(tmp_path / "0.tar")
    before = path.read_bytes()
    with pytest.raises(RuntimeError, match="stop"), ShardWriter(path):
        raise RuntimeError("stop")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("key", ["", "a.b", "/root", "__meta__/x", "a\0b", "a\nb", "caf\udce9"])
def test_keys_that_readers_would_misread(tmp_path: Path, key: str) -> None:
    with pytest.raises(DataError, match="key"), ShardWriter(tmp_path / "0.tar") as shard:
        shard.write(key, {"txt": b"x"})


def test_keys_differ_and_samples_have_members(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "0.tar") as shard:
        shard.write("a", {"txt": b"x"})
        with pytest.raises(DataError, match="before"):
            shard.write("a", {"jpg": b"x"})
    with pytest.raises(DataError, match="no members"), ShardWriter(tmp_path / "0.tar") as shard:
        shard.write("a", {})


def test_a_full_disk_names_the_shard_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(OSError, match=r"No space left on device: '.*0\.tar'"),
        ShardWriter(tmp_path / "0.tar") as shard,
    ):
        shard.write("a", {"txt": b"words"})
    assert list(tmp_path.iterdir()) == []
