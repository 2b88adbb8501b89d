"""``clipkit embed`` that is killed: complete shards stay, the next start embeds the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from clipkit.cli.main import main
from clipkit.models import save_encoder
from tests.helpers.commands import SECONDS, Command, command_on_ranks
from tests.helpers.embedding import contents
from tests.helpers.evaluation_data import tiny_encoder, write_layout
from tests.helpers.ranks import free_port

ROOT = Path(__file__).resolve().parents[2]
NUM_SHARDS = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("embed")
    save_encoder(tiny_encoder(), folder / "model")
    write_layout(folder / "set", (40,) * NUM_SHARDS)
    assert main(words_of(folder, folder / "expected")) == 0
    return folder


def words_of(folder: Path, output: Path, *more: str) -> list[str]:
    words = ["embed", f"{folder}/set", "--device", "cpu", *more, "--model", f"{folder}/model"]
    return [*words, "--output", str(output), "--batch-size", "8"]


def start(folder: Path, output: Path, *more: str) -> Command:
    log = output.with_name(f"{len(list(output.parent.iterdir()))}.log")
    log.touch()
    return Command(words_of(folder, output, *more), log)


def start_ranks(folder: Path, output: Path) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2", "-m", "clipkit.cli.main"]
    launcher.insert(2, f"--master_port={free_port()}")
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, *launcher, *words_of(folder, output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(paths)},
    )


def wait_for(output: Path, num_shards: int) -> None:
    end = time.monotonic() + SECONDS
    while len(list(output.glob("*.parquet"))) < num_shards:
        assert time.monotonic() < end
        time.sleep(0.002)


def continue_to_the_end(folder: Path, output: Path, run: Callable[[], str]) -> None:
    """The next start keeps the files of complete shards, and makes those of an undisturbed run."""
    times = {path: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    out = run()
    assert f"{NUM_SHARDS - len(times)} shards embedded, {len(times)} shards were complete" in out
    assert {path: path.stat().st_mtime_ns for path in times} == times
    for part in output.glob(".*.tmp"):  # what the killed process was writing is never read
        part.unlink()
    assert contents(output) == contents(folder / "expected")


@pytest.mark.parametrize(("complete", "workers"), [(0, 0), (1, 2), (5, 0), (9, 2)])
def test_a_killed_run_continues(folder, tmp_path, complete, workers):
    output = tmp_path / "out"
    process = start(folder, output, "--num-workers", str(workers))
    wait_for(output, complete)
    if not complete:
        time.sleep(0.3)
    process.kill()
    continue_to_the_end(folder, output, lambda: start(folder, output).end())


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_ends_the_run_and_the_next_one_continues(folder, tmp_path, lost):
    output = tmp_path / "out"
    process = start_ranks(folder, output)
    wait_for(output, 1)
    (victim,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.environ().get("RANK") == str(lost) and child.parent().pid == process.pid
    ]
    os.kill(victim.pid, signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    assert process.returncode != 0

    def run() -> str:
        again = command_on_ranks(words_of(folder, output), 2)
        assert [status for status, _ in again] == [0, 0]
        return again[0][1]

    continue_to_the_end(folder, output, run)


def test_two_starts_and_two_parts_at_the_same_time(folder, tmp_path):
    output = tmp_path / "out"
    parts = ("1/2", "2/2", "1/1", "1/1")
    processes = [start(folder, output, "--part", part) for part in parts]
    for process in processes:
        process.end()
    assert not list(output.glob(".*"))
    assert contents(output) == contents(folder / "expected")
