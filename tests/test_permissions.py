"""Whatever is written has the permissions that the umask leaves, no more and no fewer."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipkit.atomic_files import write_bytes
from clipkit.cli.main import main
from clipkit.data import ShardCache, ShardIndex, pack
from clipkit.data.packing.packed_cache import pack_to_cache
from clipkit.data.storage.urls import parse_address
from clipkit.line_log import BufferedLineLog
from clipkit.models import save_encoder
from tests.helpers import tiny
from tests.helpers.factories import image_bytes, write_shards
from tests.helpers.servers import Misbehaviour, http_server


@pytest.fixture(params=[0o077, 0o022, 0o002], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def check(folder: Path, umask: int) -> None:
    paths = [path for path in folder.rglob("*") if path.suffix != ".lock"]
    assert paths
    for path in paths:
        wanted = (0o777 if path.is_dir() else 0o666) & ~umask
        assert path.stat().st_mode & 0o777 == wanted, path


def test_files_and_caches(tmp_path: Path, umask: int) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jpg").write_bytes(image_bytes())
    (tmp_path / "data" / "t.csv").write_text("image,caption\na.jpg,a dog\n")
    pack_to_cache(tmp_path / "data" / "t.csv")
    pack(tmp_path / "data", tmp_path / "shards")
    write_bytes(tmp_path / "new" / "folder" / "x.json", b"{}")
    BufferedLineLog(tmp_path / "log.txt").append("a line\n")
    (tar,) = (tmp_path / "shards").glob("*.tar")
    with http_server({"/a.tar": tar.read_bytes()}, Misbehaviour()) as server:
        ShardIndex.from_urls(f"{server}/a.tar", cache=(cache := ShardCache(tmp_path / "cache")))
        cache.fetch(cache.stat(parse_address(f"{server}/a.tar")))
    check(tmp_path, umask)


@pytest.mark.parametrize("umask", [0o027], indirect=True, ids=oct)
def test_a_run_and_what_is_made_of_it(tmp_path: Path, umask: int) -> None:
    """With a umask that neither private files nor files for all would satisfy."""
    shards = tiny.shards(tmp_path / "shards")
    words = [word for word in tiny.words(shards, tmp_path / "run") if "checkpointing" not in word]
    saver = "--trainer.callbacks=clipkit.training.callbacks.SaveCheckpoint"
    logger = "--trainer.callbacks+=clipkit.training.callbacks.KeyLog"
    path = f"--trainer.callbacks.path={tmp_path}/run/keys.txt"
    assert main(["fit", *words, saver, logger, path]) == 0
    model = str(tmp_path / "run" / "last.ckpt")
    assert main(["export", "--model", model, "--output", str(tmp_path / "export")]) == 0
    embed = ["embed", "--model", model, "--data", str(shards / "val")]
    assert main([*embed, "--output", str(tmp_path / "embedded")]) == 0
    save_encoder(tiny.encoder(), tmp_path / "encoder")
    check(tmp_path, umask)


def test_no_foreseeable_name_is_written_through(tmp_path: Path) -> None:
    """A link that another user put in a shared folder is not followed."""
    write_shards(tmp_path, [2])
    (tmp_path / "victim").write_bytes(b"mine")
    for name in (f".x.json.{os.getpid()}.tmp", ".x.json.tmp"):
        (tmp_path / name).symlink_to(tmp_path / "victim")
    write_bytes(tmp_path / "x.json", b"{}")
    assert (tmp_path / "victim").read_bytes() == b"mine"
