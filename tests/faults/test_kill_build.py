"""Builds of an evaluation set that are killed: the folder is complete or absent."""

from __future__ import annotations

import hashlib
import signal
import time
from pathlib import Path

from clipkit.cli.main import main
from tests.helpers.commands import Command
from tests.helpers.planted_copies import write_table


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_kill_minus_nine_leaves_nothing_half_written(tmp_path: Path):
    table = write_table(tmp_path / "source", 150, 30)
    words = ["--num-workers", "2", "--samples-per-shard", "20"]
    assert main(["evaluate", "build", str(table), str(tmp_path / "whole"), *words]) == 0
    expected = content(tmp_path / "whole")
    out = tmp_path / "work" / "whole"
    command = ["evaluate", "build", str(table), str(out), *words]
    undisturbed = Command(command, tmp_path / "log.txt")
    begin = time.monotonic()
    undisturbed.end()
    seconds = time.monotonic() - begin
    assert content(out) == expected
    num_killed = 0
    for number in range(6):
        killed = Command([*command, "--overwrite"], tmp_path / "log.txt")
        time.sleep(seconds * (0.1 + 0.15 * number))
        killed.kill()
        num_killed += killed.process.exitcode == -signal.SIGKILL
        if out.exists():
            assert content(out) == expected
    assert num_killed > 0
    said = Command([*command, "--overwrite"], tmp_path / "log.txt").end()
    assert content(out) == expected
    left = [path.name for path in out.parent.iterdir() if path.name != "whole"]
    assert all(name in said for name in left if name.endswith(".tmp"))
