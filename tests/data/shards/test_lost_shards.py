"""A shard that its folder's counts name and that is gone is an error that names it."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from clipkit.data import ShardIndex
from clipkit.data.packing.packed_cache import pack_to_cache
from clipkit.data.packing.sources import open_source
from clipkit.data.packing.stats import collect_stats
from clipkit.data.packing.verify import verify_shards
from clipkit.data.shards.lost_shards import lost_shards
from clipkit.data.storage.urls import file_address, parse_address
from clipkit.data.text.tokenizers import tokenizer_from_name
from clipkit.errors import ShardError
from tests.helpers.factories import write_shards

LOST = "00001.tar"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three shards of 10 samples, of which one is gone."""
    paths = write_shards(tmp_path / "data", [2, 2, 2])
    counts = {path.name: 2 for path in paths}
    (tmp_path / "data" / "sizes.json").write_text(json.dumps(counts))
    (tmp_path / "data" / LOST).unlink()
    return tmp_path / "data"


@pytest.mark.parametrize(
    "pattern",
    ["{}", "{}/", "{}/*.tar", "file://{}/*.tar", "{}/0000?.tar", "{}/../*/*.tar", "{}/**/*.tar"],
)
def test_a_lost_shard_is_named(folder: Path, pattern: str) -> None:
    with pytest.raises(ShardError, match=rf"{LOST}: no such file, .*name it with 2 samples"):
        ShardIndex.from_urls(pattern.replace("{}", str(folder)))


def test_relative_patterns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for pattern in (".", "*.tar", "./*.tar"):
        with pytest.raises(ShardError, match=LOST):
            ShardIndex.from_urls(pattern)


def test_it_counts_as_a_bad_shard(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        index = ShardIndex.from_urls(folder, max_bad_shards=1)
    assert index.num_samples == 4
    assert [url for url, _ in index.faults] == [str(folder / LOST)]
    assert LOST in caplog.text


@pytest.mark.parametrize("pattern", ["{00000,00002}.tar", "0000[02].tar"])
def test_whoever_names_some_shards_may_leave_others_out(folder: Path, pattern: str) -> None:
    assert ShardIndex.from_urls(f"{folder}/{pattern}").num_samples == 4


def test_other_folders_are_not_compared(folder: Path) -> None:
    beside = {file_address(folder): {LOST: 2}, file_address(folder / "sub"): {LOST: 2}}
    assert [url for url, _ in lost_shards([str(folder)], [], beside)] == [str(folder / LOST)]


def test_remote_globs_are_compared() -> None:
    names = [parse_address("s3://b/d/0.tar")]
    beside = {parse_address("s3://b/d"): {"0.tar": 1, "1.tar": 1}}
    assert [url for url, _ in lost_shards(["s3://b/d/*.tar"], names, beside)] == ["s3://b/d/1.tar"]
    assert lost_shards(["s3://b/d/0.tar"], names, beside) == []


def test_packing_and_choosing_refuse_it(folder: Path) -> None:
    with pytest.raises(ShardError, match=LOST):
        open_source(folder)
    with pytest.raises(ShardError, match=LOST):
        pack_to_cache(f"{folder}/*.tar", samples_per_class=1)


def test_verify_and_stats_name_it(folder: Path) -> None:
    found = verify_shards(str(folder)).faults
    assert [LOST in fault.shard for fault in found] == [True]
    tokenizer = tokenizer_from_name("open_clip:ViT-B-32", 16)
    assert [LOST in one.shard for one in collect_stats(str(folder), tokenizer).faults] == [True]
