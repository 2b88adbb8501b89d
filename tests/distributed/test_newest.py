"""Ranks take the same checkpoint, and read together what one process would read alone."""

from __future__ import annotations

import time
import zipfile
from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from clipkit.errors import ClipkitError
from clipkit.models.files import sharded
from clipkit.models.files.folders import Folder
from clipkit.training.checkpoints import newest
from clipkit.training.checkpoints.files import join
from clipkit.training.checkpoints.io import AtomicCheckpointIO
from tests.helpers.ranks import run_ranks

VERSION = {"pytorch-lightning_version": "2"}


def save(folder: Path, name: str, step: int) -> str:
    path = join(folder, name)
    content = {"global_step": step, "w": torch.arange(10_000), **VERSION}
    AtomicCheckpointIO().save_checkpoint(content, path)
    return path


def choose(rank: int, world_size: int, root: Path) -> dict[str, object]:
    """What a rank verified itself, and what it chose."""
    read: list[str] = []
    real_zip, real_digest = zipfile.ZipFile.testzip, Folder.digest

    def testzip(archive: zipfile.ZipFile) -> str | None:
        if archive.filename is not None:
            read.append(Path(archive.filename).name)
        return real_zip(archive)

    def digest(folder: Folder, name: str) -> tuple[int, int]:
        read.append(name)
        return real_digest(folder, name)

    with (
        patch.object(zipfile.ZipFile, "testzip", testzip),
        patch.object(Folder, "digest", digest),
    ):
        found: dict[str, object] = {"file": newest.newest_complete(str(root / "file"))}
        found["read"], read = read, []
        found["parts"] = newest.newest_complete(str(root / "parts"))
        found["shares"], read = read, []
        found["none"] = newest.newest_complete(str(root / "none"))
    with pytest.raises(ClipkitError, match=r"no checkpoint in .* is complete"):
        newest.newest_complete(str(root / "broken"))
    found.update(late(rank, root))
    return found


def late(rank: int, root: Path) -> dict[str, object]:
    """The last rank's machine shows a previous file: for some time, and for ever."""
    real, calls = newest.step_of, []

    def stale(path: str) -> int:
        calls.append(path)
        return 1 if len(calls) < 3 else real(path)

    with (
        patch.object(newest, "step_of", stale if rank == 1 else real),
        patch.object(time, "sleep"),
    ):
        waited = newest.newest_complete(str(root / "file"))
        calls.clear()
        with (
            patch.object(newest, "_VISIBLE_SECONDS", -1.0),
            pytest.raises(ClipkitError, match=r"step 6, as on rank 0, got step 1 on rank 1"),
        ):
            newest.newest_complete(str(root / "file"))
    return {"waited": waited}


@pytest.mark.parametrize("world_size", [2, 4])
def test_ranks_agree_and_share_the_reading(tmp_path, world_size):
    for name in ("file", "parts", "broken"):
        (tmp_path / name).mkdir()
    save(tmp_path / "file", "step=4.ckpt", 4)
    last = save(tmp_path / "file", "last.ckpt", 6)
    (tmp_path / "broken" / "last.ckpt").write_bytes(b"half")
    folder = tmp_path / "parts" / "last.ckpt"
    folder.mkdir()
    names = [f"shard-{number}" for number in range(5)]
    for name in names:
        (folder / name).write_bytes(b"part")
    digests = {name: Folder(folder).digest(name) for name in names}
    torch.save({"global_step": 3, sharded._PARTS: digests}, folder / sharded.META)
    results = run_ranks(choose, world_size, tmp_path)
    for rank, found in enumerate(results):
        assert found["file"] == found["waited"] == last
        assert found["parts"] == str(folder)
        assert found["none"] is None
        assert found["read"] == (["last.ckpt"] if rank == 0 else [])
        own = [name for name in found["shares"] if name != sharded.META]
        assert own == names[rank::world_size]
