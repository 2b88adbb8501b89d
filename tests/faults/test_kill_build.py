"""Builds of an evaluation set that are killed: the folder is complete or absent."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from clipkit.cli.main import main
from tests.helpers.planted_copies import write_table


def content(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_kill_minus_nine_leaves_nothing_half_written(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    table = write_table(tmp_path / "source", 150, 30)
    words = ["--num-workers", "2", "--samples-per-shard", "20"]
    assert main(["evaluate", "build", str(table), str(tmp_path / "whole"), *words]) == 0
    expected = content(tmp_path / "whole")
    out = tmp_path / "work" / "whole"
    command = [sys.executable, "-m", "clipkit.cli.main", "evaluate", "build", str(table), str(out)]
    start = time.monotonic()
    subprocess.run([*command, *words], check=True, timeout=200)
    seconds = time.monotonic() - start
    assert content(out) == expected
    num_killed = 0
    for number in range(6):
        process = subprocess.Popen([*command, *words, "--overwrite"])
        time.sleep(seconds * (0.5 + 0.09 * number))
        process.send_signal(signal.SIGKILL)
        num_killed += process.wait(timeout=200) == -signal.SIGKILL
        if out.exists():
            assert content(out) == expected
    assert num_killed > 0
    capfd.readouterr()
    subprocess.run([*command, *words, "--overwrite"], check=True, timeout=200)
    assert content(out) == expected
    left = [path.name for path in out.parent.iterdir() if path.name != "whole"]
    said = capfd.readouterr().err
    assert all(name in said for name in left if name.endswith(".tmp"))
