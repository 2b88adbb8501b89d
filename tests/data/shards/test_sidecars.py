"""Index files of shards that describe what no tar can contain: they are scanned, never believed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clipkit.data import ShardCache, ShardIndex, ShardReader
from clipkit.data.shards.sidecars import load_summary, load_table
from clipkit.data.storage.cache import SIDECAR_SUFFIX
from tests.helpers.factories import write_shards
from tests.helpers.servers import Misbehaviour, http_server

LARGE = 2**62
BOMB = 2**25
EMPTY = np.zeros(0, np.int64)


def at(column: str, place: int, value: int) -> Any:
    """Return a change of one element of a column."""

    def change(columns: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        changed = columns[column].copy()
        changed[place] = value
        return {column: changed}

    return change


def as_type(column: str, dtype: Any) -> Any:
    """Return a change of the type of a column."""
    return lambda columns: {column: columns[column].astype(dtype)}


HOSTILE = {
    "no samples": lambda _: {
        "key_ends": np.zeros(1, np.int64),
        "member_ends": np.zeros(1, np.int64),
        "keys": np.zeros(0, np.uint8),
        "kinds": np.zeros(0, np.uint16),
        "offsets": EMPTY,
        "sizes": EMPTY,
    },
    "no ends": lambda _: {"key_ends": EMPTY, "member_ends": EMPTY},
    "a sample without members": lambda c: at("member_ends", 1, c["member_ends"][2])(c),
    "descending members": at("member_ends", 1, 11),
    "a first member that is not the first": at("member_ends", 0, 1),
    "negative members": at("member_ends", 0, -4),
    "descending keys": at("key_ends", 1, 13),
    "a key without letters": lambda c: at("key_ends", 1, c["key_ends"][2])(c),
    "keys that begin later": at("key_ends", 0, 1),
    "an unknown extension": at("kinds", 5, 4),
    "no extensions": lambda _: {"extensions": np.zeros(0, "U3")},
    "extensions of numbers": lambda c: {"extensions": np.arange(4)},
    "one extension": lambda c: {"extensions": c["extensions"][0]},
    "a member in front of its header": at("offsets", 0, 0),
    "a negative offset": at("offsets", 3, -512),
    "an offset beyond the end": at("offsets", 3, LARGE),
    "a negative size": at("sizes", 3, -1),
    "a size beyond the end": at("sizes", 3, 10**6),
    "a size that overflows": at("sizes", 3, 2**63 - 1),
    "floats": as_type("offsets", np.float64),
    "unsigned": as_type("sizes", np.uint64),
    "bits": as_type("kinds", bool),
    "texts": lambda c: {"keys": c["keys"].astype("U1")},
    "a table of offsets": lambda c: {"offsets": c["offsets"][:, None]},
    "keys of 32 MiB": lambda c: {"keys": np.zeros(BOMB, np.uint8), **at("key_ends", -1, BOMB)(c)},
}
SUMMARIES = [0, -1, LARGE, [3], 3.0, "3"]


@pytest.fixture
def shard(tmp_path) -> Path:
    (path,) = write_shards(tmp_path / "data", [3])
    ShardIndex.from_urls(path)
    return path


def sidecar(shard: Path) -> Path:
    return shard.with_name(shard.name + SIDECAR_SUFFIX)


def version(shard: Path) -> tuple[int, str]:
    status = shard.stat()
    return status.st_size, str(status.st_mtime_ns)


def rewrite(shard: Path, change: Any) -> None:
    """Replace columns of a shard's index file."""
    with np.load(sidecar(shard)) as stored:
        columns = {name: stored[name] for name in stored.files}
    with sidecar(shard).open("wb") as file:
        np.savez_compressed(file, **{**columns, **change(columns)})


def test_an_honest_file_is_read(shard):
    rewrite(shard, lambda _: {})
    table = load_table(sidecar(shard), *version(shard))
    assert table is not None
    assert len(table) == 3
    assert load_summary(sidecar(shard), *version(shard)).digest == table.digest()
    unknown_size = lambda _: {"size_bytes": np.int64(-1)}  # noqa: E731
    rewrite(shard, unknown_size)
    assert load_table(sidecar(shard), -1, version(shard)[1]) is not None


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_table_is_not_read(name, shard):
    rewrite(shard, HOSTILE[name])
    assert load_table(sidecar(shard), *version(shard)) is None


@pytest.mark.parametrize("count", SUMMARIES)
def test_a_hostile_summary_is_not_read(count, shard):
    rewrite(shard, lambda _: {"num_samples": np.array(count)})
    assert load_summary(sidecar(shard), *version(shard)) is None
    assert ShardIndex.from_urls(shard).num_samples == 3


@pytest.mark.parametrize("name", ["no samples", "a sample without members", "an unknown extension"])
def test_the_shard_is_read_in_place_of_a_hostile_file(name, shard, tmp_path):
    oracle = ShardReader(ShardIndex.from_urls(shard)).read(2)
    rewrite(shard, HOSTILE[name])
    files = {f"/{path.name}": path.read_bytes() for path in shard.parent.iterdir()}
    with http_server(files, Misbehaviour()) as url:
        cache = ShardCache(tmp_path / "cache", retries=0, ranges=True)
        index = ShardIndex.from_urls(f"{url}/{shard.name}", cache=cache)
        assert index.num_samples == 3
        assert ShardReader(index).read(2).members == oracle.members
    moved = shutil.copytree(shard.parent, tmp_path / "moved")
    local = ShardReader(ShardIndex.from_urls(moved)).read(2)
    assert (local.key, local.members) == (oracle.key, oracle.members)
