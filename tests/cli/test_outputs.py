"""Outputs that cannot be written: found before the work, by one check, in every command."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from clipkit.cli.main import main
from clipkit.cli.outputs import check_new_folder, check_output_file, check_output_folder
from clipkit.errors import ConfigError

CHECKS = [check_output_file, check_output_folder, check_new_folder]


def places(root: Path) -> dict[str, Path | str]:
    """Outputs that cannot be, by what is wrong with them."""
    (root / "file").write_text("mine")
    (root / "loop").symlink_to(root / "loop")
    os.mkfifo(root / "pipe")
    return {
        "below a file": root / "file" / "below" / "out",
        "below a loop": root / "loop" / "out",
        "a loop": root / "loop",
        "a pipe": root / "pipe",
        "too long a name": root / ("x" * 300),
        "too long a path": root.joinpath(*["x" * 200] * 30),
        "NUL": f"{root}/a\0b",
        "below NUL": f"{root}/a\0b/c",
        "lone surrogate": f"{root}/\ud800",
    }


KINDS = (
    *("below a file", "below a loop", "a loop", "a pipe", "too long a name"),
    *("too long a path", "NUL", "below NUL", "lone surrogate"),
)


def everything(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("kind", KINDS)
def test_impossible_places(tmp_path, check, kind):
    path = Path(places(tmp_path)[kind])
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match="--output: "):
        check("--output", path)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("check", CHECKS)
def test_possible_places_are_left_as_they_were(tmp_path, check):
    for path in (tmp_path / "new", tmp_path / "a" / "b" / "new", tmp_path / ("y" * 230)):
        check("--output", path)
    check_output_file("--output", None)
    check_output_folder("--output", None)
    assert everything(tmp_path) == []


def test_kinds(tmp_path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder" / "report.html").mkdir(parents=True)
    check_output_file("--output", tmp_path / "file")
    check_output_folder("--output", tmp_path / "folder")
    for wrong in (
        lambda: check_output_file("--output", tmp_path / "folder"),
        lambda: check_output_folder("--output", tmp_path / "file"),
        lambda: check_output_folder("--output", tmp_path / "folder", ["report.html"]),
        lambda: check_new_folder("--output", tmp_path / "folder"),
        lambda: check_new_folder("--output", tmp_path / "file"),
    ):
        with pytest.raises(ConfigError, match="--output: expected a"):
            wrong()


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES, errno.EDQUOT])
def test_the_disk_refuses(tmp_path, monkeypatch, check, number):
    """Tests may run as root, whom the rights of a folder do not stop."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    if number in (errno.ENOSPC, errno.EDQUOT):  # an empty file can be made on a full disk
        monkeypatch.setattr(os, "fsync", refuse)
    else:
        monkeypatch.setattr(tempfile, "NamedTemporaryFile", refuse)
    with pytest.raises(ConfigError, match=os.strerror(number)):
        check("--output", tmp_path / "deep" / "out")
    assert everything(tmp_path) == []


def test_known_sizes(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9 - 10**7, 10**7))
    check_output_file("--output", tmp_path / "out", num_bytes=10**7)
    with pytest.raises(ConfigError, match="needs 20 MB, the disk has 10 MB"):
        check_output_file("--output", tmp_path / "out", num_bytes=2 * 10**7)
    with pytest.raises(ConfigError, match="needs 20 MB"):
        check_new_folder("--output", tmp_path / "out", num_bytes=2 * 10**7)


def test_many_at_once(tmp_path):
    """Commands of one script that share a new folder do not disturb each other."""
    with ThreadPoolExecutor(16) as pool:
        paths = [tmp_path / "a" / "b" / f"{number}.json" for number in range(200)]
        list(pool.map(lambda path: check_output_file("--output", path), paths))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


COMMANDS = {
    "demo": ("demo", "--output", "OUT"),
    "finetune": ("finetune", "--train", "DATA", "--output", "OUT"),
    "tune": (
        *("tune", "--space", "DATA", "--metric", "val/loss", "--direction", "minimize"),
        *("--output", "OUT"),
    ),
    "evaluate": ("evaluate", "--model", "M", "--data", "DATA", "--output", "OUT"),
    "evaluate --report": ("evaluate", "--model", "M", "--data", "DATA", "--report", "OUT"),
    "embed": ("embed", "--model", "M", "--data", "DATA", "--output", "OUT"),
    "explain": ("explain", "M", "DATA", "a dog", "--output", "OUT"),
    "interpolate": (
        *("interpolate", "--start", "M", "--end", "M", "--measure", "retrieval=DATA"),
        *("--output", "OUT"),
    ),
    "export": ("export", "--model", "M", "--output", "OUT"),
    "shards pack": ("shards", "pack", "DATA", "OUT"),
    "shards verify": ("shards", "verify", "DATA", "--output", "OUT"),
    "shards stats": ("shards", "stats", "DATA", "--output", "OUT"),
}
"""M and DATA do not exist: the output must be looked at before them."""


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", ["below a file", "too long a name", "below a loop"])
def test_every_command_looks_at_its_output_first(tmp_path, capsys, command, kind):
    words = {"OUT": str(places(tmp_path)[kind]), "DATA": str(tmp_path / "no" / "data")}
    before = everything(tmp_path)
    assert main([words.get(word, word) for word in COMMANDS[command]]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    option = {"evaluate --report": "--report", "shards pack": "OUT"}.get(command, "--output")
    assert line.startswith(f"clipkit: error: {option}: ")
    assert everything(tmp_path) == before
