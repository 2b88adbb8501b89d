"""What is removed from a folder of a store: parts of other writes, and nothing else."""

from uuid import uuid4

import fsspec
import pytest
import torch

from clipkit.models.files.folders import Folder
from clipkit.models.files.pieces import Piece
from clipkit.models.files.sharded import META, ShardedContent, unused_files, write_sharded

PART = "shard-00001-model-00001-of-00001.safetensors"


@pytest.fixture
def place():
    return f"memory://{uuid4().hex}/last.ckpt"


def write(place, inner):
    write_sharded(ShardedContent({'["a"]': Piece((0,), torch.ones(3))}, {}), place, inner)


def test_parts_of_another_write_are_unused(place):
    write(place, "aaaaaaaa")
    write(place, "bbbbbbbb")
    assert unused_files(place) == [f"aaaaaaaa/{PART}"]


def test_without_meta_all_parts_are_unused(place):
    write(place, "aaaaaaaa")
    Folder(place).remove(META)
    assert unused_files(place) == [f"aaaaaaaa/{PART}"]


def test_files_of_other_programs_stay(place):
    system, root = fsspec.url_to_fs(place)
    for name in ("model.pt", ".metadata", "__0_0.distcp", "deep/er/" + PART):
        system.pipe_file(f"{root}/{name}", b"content")
    assert unused_files(place) == []


def test_nothing_is_unused_if_meta_cannot_be_read(place):
    write(place, "aaaaaaaa")
    write(place, "bbbbbbbb")
    system, root = fsspec.url_to_fs(place)
    system.pipe_file(f"{root}/{META}", b"half")
    assert unused_files(place) == []


def test_an_error_of_the_store_is_not_an_absent_file(place, monkeypatch):
    write(place, "aaaaaaaa")
    folder = Folder(place)

    def refuse(*_, **__):
        raise PermissionError("403")

    monkeypatch.setattr(type(folder._system), "info", refuse)
    with pytest.raises(PermissionError):
        folder.exists(META)
