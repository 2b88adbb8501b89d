"""Processes that pack parts of one table, and are killed: the folder is that of one process."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from clipkit.data.packing.pack import pack
from tests.data.packing.partition.test_part_packer import content, write_table
from tests.helpers.commands import Command


def test_kill_minus_nine_of_parts_that_run_at_the_same_time(tmp_path: Path):
    rows = [f"{n}.jpg,caption {n},{n % 7}" for n in range(600)]
    table = write_table(tmp_path / "photos", rows)
    pack(table, tmp_path / "whole", samples_per_shard=20)
    out = tmp_path / "parts"
    words = ["shards", "pack", str(table), str(out), "--samples-per-shard", "20"]

    def start(number: int) -> Command:
        part = ["--num-workers", "1", "--part", f"{number}/3"]
        return Command([*words, *part], tmp_path / f"{number}.log")

    killed, others = start(2), [start(1), start(3)]
    while not list(out.glob("0001*.tar")) and killed.process.is_alive():
        time.sleep(0.01)  # shards 10 to 19 are those of part 2
    killed.kill()
    assert killed.process.exitcode == -signal.SIGKILL
    for process in others:
        process.end()
    assert not (out / "sizes.json").exists()
    start(2).end()
    for left in out.glob(".*.tmp"):
        left.unlink()  # of the killed process
    assert content(out) == content(tmp_path / "whole")
