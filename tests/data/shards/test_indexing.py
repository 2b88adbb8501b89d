"""Remote shards with counts: samples that index files identify, and numbers that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipkit.cli.main import main
from clipkit.data import ShardCache, ShardIndex, ShardReader
from clipkit.data.shards.index_files import write_index_file
from clipkit.data.shards.shard import Shard
from clipkit.data.storage.cache import SIDECAR_SUFFIX, default_cache
from clipkit.data.storage.urls import file_address
from clipkit.errors import DataError, ShardError
from tests.helpers.factories import write_shards
from tests.helpers.servers import Misbehaviour, http_server

NAMES = "{00000..00001}.tar"


@pytest.fixture
def packed(tmp_path) -> Path:
    """Two shards with index files and counts, as ``clipkit shards pack`` leaves them."""
    folder = tmp_path / "packed"
    write_shards(folder, [3, 4])
    ShardIndex.from_urls(folder)
    (folder / "sizes.json").write_text('{"00000.tar": 3, "00001.tar": 4}')
    return folder


@pytest.fixture
def files(packed):
    return {f"/{path.name}": path.read_bytes() for path in packed.iterdir()}


@pytest.fixture
def cache(tmp_path):
    return ShardCache(tmp_path / "cache", retries=1, backoff_seconds=0.01)


@pytest.fixture
def trouble():
    return Misbehaviour()


@pytest.fixture
def url(files, trouble):
    with http_server(files, trouble) as server:
        yield server


@pytest.fixture
def users_cache(tmp_path, monkeypatch):
    """The cache of commands, in a folder of the test."""
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "users"))
    default_cache.cache_clear()
    yield default_cache()
    default_cache.cache_clear()


def test_tables_are_read_where_they_are_asked_for(url, packed, cache, trouble):
    plain = ShardIndex.from_urls(f"{url}/{NAMES}", cache=cache)
    assert (plain.num_samples, plain.digest) == (7, "")
    assert not any(name.endswith(SIDECAR_SUFFIX) for name in trouble.gets)
    local = ShardIndex.from_urls(packed)
    for _ in range(2):  # from the server, then from the cache
        index = ShardIndex.from_urls(f"{url}/{NAMES}", cache=cache, read_tables=True)
        assert (index.fingerprint, index.digest) == (local.fingerprint, local.digest)
        assert index.digest
    assert not list(cache.folder.glob("??/*.tar"))


def test_the_index_file_of_a_packed_bucket_identifies_its_samples(
    url, packed, tmp_path, users_cache, capsys
):
    output = tmp_path / "all.npz"
    assert main(["shards", "index", f"{url}/{NAMES}", "--output", str(output)]) == 0
    assert "no index file next to" not in capsys.readouterr().err
    assert ShardIndex.from_urls(output).digest == ShardIndex.from_urls(packed).digest


def test_shards_without_an_index_file_are_known_by_number(
    url, files, tmp_path, users_cache, capsys
):
    del files["/00001.tar" + SIDECAR_SUFFIX]
    output = tmp_path / "all.npz"
    assert main(["shards", "index", f"{url}/{NAMES}", "--output", str(output)]) == 0
    printed = "".join(capsys.readouterr())
    assert f"1 shards, such as {url}/00001.tar: the number of samples is that of a" in printed
    index = ShardIndex.from_urls(output)
    assert [bool(shard.digest) for shard in index.shards] == [True, False]
    assert index.num_samples == 7


def test_counts_that_index_files_contradict(url, files, cache):
    files["/sizes.json"] = b'{"00000.tar": 3, "00001.tar": 5}'
    with pytest.raises(
        ShardError, match=r"00001\.tar: expected 5 samples.*got 4 in its index file"
    ):
        ShardIndex.from_urls(f"{url}/{NAMES}", cache=cache, read_tables=True)


@pytest.mark.parametrize("count", [-1, -(2**63), 2**40, 10**30, True, 1.5, "3", None])
def test_numbers_of_samples_that_are_none(count, url, files, cache, packed):
    files["/sizes.json"] = json.dumps({"00000.tar": 3, "00001.tar": count}).encode()
    message = r"00001\.tar: expected a number of samples, got"
    with pytest.raises(DataError, match=message):
        ShardIndex.from_urls(f"{url}/{NAMES}", cache=cache)
    (packed / "sizes.json").write_bytes(files["/sizes.json"])
    with pytest.raises(DataError, match=message):
        ShardIndex.from_urls(packed)
    with pytest.raises(DataError, match=f"counts: {message}"):
        ShardIndex.from_urls(f"{url}/{NAMES}", counts={"00001.tar": count}, cache=cache)


@pytest.mark.parametrize("read_tables", [False, True])
def test_an_empty_shard_is_broken_and_may_be_skipped(
    url, files, packed, tmp_path, cache, read_tables
):
    write_shards(tmp_path / "empty", [0])
    empty = (tmp_path / "empty" / "00000.tar").read_bytes()
    files |= {"/00001.tar": empty, "/sizes.json": b'{"00000.tar": 3, "00001.tar": 0}'}
    del files["/00001.tar" + SIDECAR_SUFFIX]
    options = {"cache": cache, "read_tables": read_tables}
    with pytest.raises(ShardError, match=r"00001\.tar: empty shard"):
        ShardIndex.from_urls(f"{url}/{NAMES}", **options)
    index = ShardIndex.from_urls(f"{url}/{NAMES}", max_bad_shards=1, **options)
    assert (index.num_samples, len(index.faults)) == (3, 1)
    assert ShardReader(index).read(2).index == 2
    (packed / "00001.tar").write_bytes(empty)
    (packed / "sizes.json").write_bytes(files["/sizes.json"])
    with pytest.raises(ShardError, match=r"00001\.tar: empty shard"):
        ShardIndex.from_urls(packed)


@pytest.mark.parametrize("count", [0, -3, 2**40])
def test_an_index_file_is_not_written_with_such_a_number(count, tmp_path):
    shards = [Shard(file_address(tmp_path / f"{n}.tar"), n, 9) for n in (4, count)]
    with pytest.raises(DataError, match=rf"all\.npz: .*{count}\.tar: expected a number of samples"):
        write_index_file(shards, tmp_path / "all.npz")
    assert not (tmp_path / "all.npz").exists()
