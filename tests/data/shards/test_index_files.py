"""One index file for a data set: the same samples, moved folders and buckets, hostile files."""

from __future__ import annotations

import io
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

from clipkit.cli.main import main
from clipkit.data import ShardCache, ShardIndex, ShardReader, verify_shards
from clipkit.data.shards.index_files import read_index_file, write_index_file
from clipkit.data.shards.shard import Shard
from clipkit.data.storage.urls import file_address, parse_address
from clipkit.errors import DataError, ShardError
from tests.helpers.factories import write_shards
from tests.helpers.servers import Misbehaviour, http_server


@pytest.fixture
def folder(tmp_path) -> Path:
    write_shards(tmp_path / "data" / "sub", [3, 4, 5])
    assert (
        main(["shards", "index", f"{tmp_path}/data/sub", "--output", f"{tmp_path}/data/all.npz"])
        == 0
    )
    return tmp_path / "data"


def keys(index: ShardIndex) -> list[str]:
    reader = ShardReader(index)
    return [reader.read(number).key for number in range(len(index))]


def served(folder: Path) -> dict[str, bytes]:
    return {f"/{p.relative_to(folder)}": p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_an_index_file_stands_for_its_shards(folder):
    plain, index = ShardIndex.from_urls(folder / "sub"), ShardIndex.from_urls(folder / "all.npz")
    assert index.shards == plain.shards
    assert (index.fingerprint, index.digest) == (plain.fingerprint, plain.digest)
    assert keys(index) == keys(plain)
    assert verify_shards(str(folder / "all.npz")).num_samples == 12


def test_an_index_file_is_one_of_several_patterns(folder, tmp_path):
    write_shards(tmp_path / "more", [2], start=100)
    index = ShardIndex.from_urls([folder / "all.npz", tmp_path / "more"])
    assert index.num_samples == 14
    with pytest.raises(ShardError, match=r"00000\.tar: named twice"):
        ShardIndex.from_urls([folder / "all.npz", folder / "sub"])


def test_opening_an_index_file_touches_no_shard(folder):
    shutil.rmtree(folder / "sub")
    index = ShardIndex.from_urls(folder / "all.npz")
    assert index.num_samples == 12
    with pytest.raises(ShardError, match=r"00001\.tar: vanished since it was indexed"):
        ShardReader(index).read(3)


def test_a_shard_that_changed_is_named(folder):
    write_shards(folder / "sub", [3, 6, 5])
    with pytest.raises(ShardError, match=r"00001\.tar: changed since it was indexed"):
        ShardReader(ShardIndex.from_urls(folder / "all.npz")).read(4)


def test_a_copy_on_another_disk_is_read(folder, tmp_path):
    """Copies have other times of change; their samples are compared instead."""
    copied = tmp_path / "copy"
    shutil.copytree(folder, copied, copy_function=shutil.copyfile)
    for number, path in enumerate(copied.rglob("*.tar")):
        os.utime(path, ns=(0, 10**18 + number))
    index = ShardIndex.from_urls(copied / "all.npz")
    assert keys(index) == keys(ShardIndex.from_urls(folder / "all.npz"))
    scanned = ShardIndex.from_urls(copied / "sub", write_sidecars=False)
    assert scanned.digest == index.digest


def test_a_copy_without_index_files_next_to_the_shards_is_read(folder, tmp_path):
    for path in folder.rglob("*.tar.index.npz"):
        path.unlink()
    os.utime(folder / "sub" / "00001.tar", ns=(0, 10**18))
    assert len(keys(ShardIndex.from_urls(folder / "all.npz"))) == 12
    assert not list(folder.rglob("*.tar.index.npz"))


def test_other_samples_of_the_same_length_are_named(folder, tmp_path):
    (other,) = write_shards(tmp_path / "other", [3], start=7)
    ShardIndex.from_urls(other)
    path = folder / "sub" / "00000.tar"
    assert other.stat().st_size == path.stat().st_size
    for suffix in ("", ".index.npz"):  # with its own index file
        shutil.copy2(f"{other}{suffix}", f"{path}{suffix}")
    os.utime(path, ns=(0, 10**18))
    reader = ShardReader(ShardIndex.from_urls(folder / "all.npz"))
    with pytest.raises(ShardError, match=r"00000\.tar: other samples than in its index"):
        reader.read(0)
    assert reader.read(3).index == 0


def test_a_copy_that_changes_after_it_was_opened_is_named(folder, monkeypatch):
    monkeypatch.setattr("clipkit.data.shards.open_files._OPEN_FILES", 1)
    path = folder / "sub" / "00000.tar"
    os.utime(path, ns=(0, 10**18))
    reader = ShardReader(ShardIndex.from_urls(folder / "all.npz"))
    reader.read(0)
    reader.read(3)  # closes the first shard
    reader.read(1)
    reader.read(3)
    os.utime(path, ns=(0, 10**18 + 1))
    with pytest.raises(ShardError, match=r"00000\.tar: changed since it was indexed"):
        reader.read(2)


def test_folder_and_index_may_be_uploaded(folder, tmp_path):
    trouble = Misbehaviour()
    files = served(folder)
    with http_server(files, trouble) as url:
        cache = ShardCache(tmp_path / "cache", retries=1, backoff_seconds=0.01, ranges=True)
        index = ShardIndex.from_urls(f"{url}/all.npz", cache=cache)
        assert list(trouble.gets) == ["/all.npz"]
        assert index.digest == ShardIndex.from_urls(folder / "sub").digest
        assert keys(index) == keys(ShardIndex.from_urls(folder / "sub"))


@pytest.mark.parametrize("ranges", [False, True])
def test_uploaded_shards_that_do_not_match_are_named(folder, tmp_path, ranges):
    files = served(folder)
    write_shards(tmp_path / "other", [3, 6], start=7)
    longer = (tmp_path / "other" / "00001.tar").read_bytes()
    other = (tmp_path / "other" / "00000.tar").read_bytes()
    assert len(other) == len(files["/sub/00000.tar"])
    files |= {"/sub/00000.tar": other, "/sub/00001.tar": longer}
    with http_server(files, Misbehaviour()) as url:
        cache = ShardCache(tmp_path / "cache", retries=1, backoff_seconds=0.01, ranges=ranges)
        reader = ShardReader(ShardIndex.from_urls(f"{url}/all.npz", cache=cache))
        with pytest.raises(ShardError, match=r"00000\.tar: other samples than in its index"):
            reader.read(0)
        with pytest.raises(ShardError, match=r"00001\.tar: expected \d+ bytes, as in its index"):
            reader.read(4)
        assert reader.read(8).index == 1


def test_versions_of_remote_shards_are_kept(folder, tmp_path):
    files = served(folder / "sub")
    with http_server(files, Misbehaviour()) as url:
        cache = ShardCache(tmp_path / "cache", retries=1, backoff_seconds=0.01)
        index = ShardIndex.from_urls(f"{url}/0000{{0..2}}.tar", cache=cache)
        write_index_file(index.shards, tmp_path / "remote.npz")
        again = ShardIndex.from_urls(tmp_path / "remote.npz", cache=cache)
        assert again.shards == index.shards
        assert all(shard.stamp for shard in again.shards)


def test_many_shards_with_odd_names(tmp_path):
    names = [
        "s3://b/ü x.tar",
        "/data/a\udcff.tar",
        "https://h/a.tar?sig=%20",
        str(tmp_path / "c.tar"),
    ]
    shards = [
        Shard(parse_address(name), number + 1, -1 if number else 2**40, f"v{number}", f"d{number}")
        for number, name in enumerate(names)
    ]
    write_index_file(shards, tmp_path / "i.npz")
    assert read_index_file(file_address(tmp_path / "i.npz")) == shards


def stored(**changes) -> bytes:
    """Return an index file with other columns."""
    columns = {
        "format": np.array("clipkit data set index 1"),
        "num_samples": np.array([2, 3]),
        "size_bytes": np.array([10, 20]),
        "names": np.frombuffer(b"a.tar\0b.tar", np.uint8),
        "stamps": np.frombuffer(b"1\0002", np.uint8),
        "digests": np.frombuffer(b"x\0y", np.uint8),
    }
    buffer = io.BytesIO()
    np.savez(buffer, **{**columns, **changes})
    return buffer.getvalue()


class Evil:
    def __reduce__(self):
        return (Path.touch, (Path("evil"),))


HOSTILE = {
    "torn": (stored()[:-30], "not a complete index"),
    "text": (b"no npz", "not a complete index"),
    "empty": (b"", "not a complete index"),
    "pickle": (pickle.dumps(Evil()), "not a complete index"),
    "object": (stored(names=np.array([Evil()], dtype=object)), "not a complete index"),
    "other": (stored(format=np.array("other")), "expected 'clipkit data set index 1', got 'other'"),
    "missing": (stored(num_samples=np.array([2])), "columns of an index do not match"),
    "floats": (stored(num_samples=np.array([2.0, 3.0])), "columns of an index do not match"),
    "zero": (stored(num_samples=np.array([2, 0])), r"b\.tar: expected a number of samples"),
    "negative": (stored(num_samples=np.array([-2, 3])), r"a\.tar: expected a number of samples"),
    "huge": (stored(num_samples=np.array([2**62, 2**62])), "expected a number of samples, at"),
    "command": (stored(names=np.frombuffer(b"pipe:rm x\0b", np.uint8)), "must not name a command"),
    "twice": (stored(names=np.frombuffer(b"a.tar\0a.tar", np.uint8)), "named twice"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_index_files_are_named(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, message = HOSTILE[name]
    (tmp_path / "i.npz").write_bytes(data)
    with pytest.raises(DataError, match=message):
        ShardIndex.from_urls("i.npz")
    assert not (tmp_path / "evil").exists()


def test_a_remote_index_names_no_file_of_this_machine(tmp_path):
    hostile = stored(names=np.frombuffer(b"/etc/passwd\0b", np.uint8))
    with http_server({"/i.npz": hostile}, Misbehaviour()) as url:
        cache = ShardCache(tmp_path, retries=0)
        with pytest.raises(DataError, match="a remote index must not name a file of this machine"):
            ShardIndex.from_urls(f"{url}/i.npz", cache=cache)
        with pytest.raises(DataError, match=r"none\.npz: no such file"):
            ShardIndex.from_urls(f"{url}/none.npz", cache=cache)


@pytest.mark.parametrize("name", ["index.json", "00000.tar.index.npz"])
def test_names_that_no_run_would_recognise_are_refused(name, folder, tmp_path, capsys):
    assert main(["shards", "index", f"{folder}/sub", "--output", f"{tmp_path}/{name}"]) == 2
    assert "expected a name ending in .npz" in capsys.readouterr().err
    assert not (tmp_path / name).exists()
