"""Processes that pack parts of one table, and are killed: the folder is that of one process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

from clipkit.data.packing.pack import pack
from tests.data.packing.partition.test_part_packer import content, write_table


def test_kill_minus_nine_of_parts_that_run_at_the_same_time(tmp_path: Path):
    rows = [f"{n}.jpg,caption {n},{n % 7}" for n in range(600)]
    table = write_table(tmp_path / "photos", rows)
    pack(table, tmp_path / "whole", samples_per_shard=20)
    out = tmp_path / "parts"
    command = [sys.executable, "-m", "clipkit.cli.main", "shards", "pack", str(table), str(out)]
    command += ["--samples-per-shard", "20", "--num-workers", "1"]

    def start(number: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, "--part", f"{number}/3"])

    killed, others = start(2), [start(1), start(3)]
    while not list(out.glob("0001*.tar")) and killed.poll() is None:
        time.sleep(0.01)  # shards 10 to 19 are those of part 2
    killed.send_signal(signal.SIGKILL)
    assert killed.wait(timeout=100) == -signal.SIGKILL
    assert [process.wait(timeout=100) for process in others] == [0, 0]
    assert not (out / "sizes.json").exists()
    assert start(2).wait(timeout=100) == 0
    for left in out.glob(".*.tmp"):
        left.unlink()  # of the killed process
    assert content(out) == content(tmp_path / "whole")
