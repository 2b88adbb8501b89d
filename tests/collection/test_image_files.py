"""Images of a collection come from the shards, and nothing else does."""

from __future__ import annotations

import json
import os

import pytest

from clipkit.collection import Collection, CollectionFiles, CollectionImages, read_info
from clipkit.data import ShardIndex, ShardReader
from clipkit.data.storage.urls import parse_address
from clipkit.errors import DataError, SampleError, ShardError
from tests.helpers.collections import set_column
from tests.helpers.embedded_shards import embed_shards
from tests.helpers.factories import pair, write_shard, write_shards
from tests.helpers.servers import Misbehaviour, http_server


@pytest.fixture
def folder(tmp_path):
    write_shards(tmp_path / "shards", (3, 2))
    return embed_shards(tmp_path / "shards", tmp_path / "embedded")


def test_each_row_has_its_image(folder, tmp_path):
    images = CollectionImages(Collection(folder))
    reader = ShardReader(ShardIndex.from_urls(str(tmp_path / "shards")))
    for row in (4, 0, 3, 1, 2, 0):
        assert images.read(row) == reader.read(row).members["jpg"]


def test_shards_that_moved_are_read_where_they_are(folder, tmp_path):
    (tmp_path / "shards").rename(tmp_path / "moved")
    with pytest.raises(ShardError, match=r"00000\.tar: cannot be read: No such file"):
        CollectionImages(Collection(folder)).read(0)
    moved = [parse_address(str(tmp_path / f"moved/0000{n}.tar")) for n in range(2)]
    assert CollectionImages(Collection(folder), moved).read(4)[:2] == b"\xff\xd8"


def test_a_shard_that_changed_is_named(folder, tmp_path):
    write_shard(tmp_path / "shards/00000.tar", [("000000", {"a": b"x" * 700, **pair(0)})])
    with pytest.raises(ShardError, match="the shard has changed: embed it again"):
        CollectionImages(Collection(folder)).read(0)
    os.truncate(tmp_path / "shards/00001.tar", 700)
    with pytest.raises(ShardError, match="has changed"):
        CollectionImages(Collection(folder)).read(3)


def test_other_files_are_not_returned(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"password " * 500)
    content = json.loads((folder / "collection.json").read_text())
    content["shards"][0]["url"] = str(secret)
    (folder / "collection.json").write_text(json.dumps(content))
    assert read_info(folder).shards[0].url == str(secret)
    with pytest.raises(ShardError, match="expected an image at byte"):
        CollectionImages(Collection(folder)).read(0)
    content["shards"][0]["url"] = "pipe:cat /etc/passwd"
    (folder / "collection.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match="a pipe runs a command"):
        CollectionImages(Collection(folder))


def test_a_device_or_pipe_is_refused_without_waiting(folder, tmp_path):
    (tmp_path / "shards/00000.tar").unlink()
    os.mkfifo(tmp_path / "shards/00000.tar")
    with pytest.raises(ShardError, match=r"00000\.tar"):
        CollectionImages(Collection(folder)).read(0)


@pytest.mark.parametrize(
    ("column", "values", "message"),
    [
        ("image_offset_bytes", [None, 512, 512], "has no image"),
        ("image_offset_bytes", [-512, 512, 512], "has no image"),
        ("image_size_bytes", [2**40, 1, 1], "at most 67108864 bytes, got 1099511627776"),
    ],
)
def test_positions_that_cannot_be_are_refused(folder, column, values, message):
    set_column(folder, "00000", column, values)
    with pytest.raises(SampleError, match=message):
        CollectionImages(Collection(folder)).read(0)


def test_rows_out_of_range_are_named(folder):
    with pytest.raises(DataError, match="row 5: expected 0 to 4"):
        CollectionImages(Collection(folder)).read(5)


@pytest.mark.parametrize("ignores_ranges", [False, True])
def test_only_the_image_is_transferred_from_a_server(folder, tmp_path, monkeypatch, ignores_ranges):
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    files = {f"/{path.name}": path.read_bytes() for path in (tmp_path / "shards").glob("*.tar")}
    wanted = CollectionImages(Collection(folder)).read(4)
    behaviour = Misbehaviour(ignores_ranges=ignores_ranges)
    with http_server(files, behaviour) as url:
        addresses = [parse_address(f"{url}/0000{n}.tar") for n in range(2)]
        assert CollectionImages(Collection(folder), addresses).read(4) == wanted
        files_there = CollectionFiles(Collection(folder), "image", addresses)
        assert files_there.read(4, 100, 130) == wanted[100:130]
    assert ignores_ranges or behaviour.sent_bytes < 2 * len(wanted) + 4096


def test_parts_of_a_file_are_those_of_the_file(folder, tmp_path):
    files = CollectionFiles(Collection(folder))
    complete = files.read(4)
    size = files.size_bytes(4)
    assert size == len(complete)
    for start, end in ((0, 16), (5, 9), (size - 3, None), (3, 3), (7, size + 99), (size + 5, None)):
        assert files.read(4, start, end) == complete[start:end]
    write_shard(tmp_path / "shards/00001.tar", [("000003", {"a": b"x" * 700, **pair(3)})])
    with pytest.raises(ShardError, match="the shard has changed"):
        files.read(4, 5, 9)
    os.truncate(tmp_path / "shards/00001.tar", 700)
    with pytest.raises(ShardError, match="has changed"):
        files.read(3, 300, 400)
