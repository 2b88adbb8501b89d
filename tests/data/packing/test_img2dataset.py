"""img2dataset's three formats of output, with what it writes next to them."""

from __future__ import annotations

import json

import pytest

from clipkit.data import ShardIndex, ShardReader, pack
from clipkit.data.packing.packed_cache import is_raw, pack_to_cache
from clipkit.data.packing.sources import open_source
from tests.helpers.factories import image_bytes, write_shards

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def metadata(folder, name, rows):
    """Write the Parquet and the statistics that img2dataset puts next to a shard."""
    columns = {
        "url": [f"http://host/{n}" for n in rows],
        "caption": [f"caption {n}" for n in rows],
        "key": [f"{n:09d}" for n in rows],
        "status": ["failed_to_download" if n == 1 else "success" for n in rows],
    }
    parquet.write_table(pa.table(columns), folder / f"{name}.parquet")
    (folder / f"{name}_stats.json").write_text(json.dumps({"count": len(rows), "successes": 2}))


@pytest.fixture
def files(tmp_path):
    for part in range(2):
        name = f"{part:05d}"
        folder = tmp_path / name
        folder.mkdir()
        for n in (0, 2):
            base = folder / f"{part * 10_000 + n:09d}"
            base.with_suffix(".jpg").write_bytes(image_bytes(seed=part * 10 + n))
            base.with_suffix(".txt").write_text(f"caption {n}")
            base.with_suffix(".json").write_text(json.dumps({"key": base.name, "url": "http://h"}))
        metadata(tmp_path, name, [0, 1, 2])
    return tmp_path


def test_files_keep_their_keys_texts_and_json(files):
    assert is_raw(files)
    packed = pack_to_cache(files)
    reader = ShardReader(ShardIndex.from_urls(list(packed.shards)))
    keys = [reader.read(n).key for n in range(reader.num_samples)]
    assert keys == ["000000000", "000000002", "000010000", "000010002"]
    members = reader.read(3).members
    assert members["jpg"] == image_bytes(seed=12)
    assert members["txt"] == b"caption 2"
    assert json.loads(members["json"])["url"] == "http://h"
    first = open_source(files).fingerprint()
    (files / "00001" / "000010002.txt").write_text("another")
    assert open_source(files).fingerprint() != first


def test_tars_are_shards_next_to_their_metadata(tmp_path):
    write_shards(tmp_path, [2, 3])
    for part in range(2):
        metadata(tmp_path, f"{part:05d}", [0, 1, 2])
    assert not is_raw(tmp_path)
    assert ShardIndex.from_urls(tmp_path).num_samples == 5
    assert pack(tmp_path, tmp_path / "out").num_samples == 5


def test_parquet_contains_the_images(tmp_path):
    for part in range(2):
        columns = {
            "jpg": [image_bytes(seed=part), None],
            "caption": ["a", "b"],
            "key": ["000000000", "000000001"],
            "status": ["success", "failed_to_resize"],
        }
        parquet.write_table(pa.table(columns), tmp_path / f"{part:05d}.parquet")
        (tmp_path / f"{part:05d}_stats.json").write_text("{}")
    source = open_source(tmp_path)
    assert [item.members()["jpg"] for item in source.items] == [
        image_bytes(seed=0),
        image_bytes(seed=1),
    ]
