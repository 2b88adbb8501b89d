"""Suites that are killed: nothing that was complete is lost, and the next run does the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from clipkit.models import save_encoder
from tests.helpers.commands import SECONDS, Command, command_on_ranks
from tests.helpers.evaluation_data import tiny_encoder, write_layout
from tests.helpers.ranks import free_port

ROOT = Path(__file__).resolve().parents[2]
NUM_DATA = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("suite")
    save_encoder(tiny_encoder(), folder / "model")
    entries = []
    for number in range(NUM_DATA):
        write_layout(folder / f"set{number}", (30,), start=100 * number)
        entries.append(f"  - {{name: set{number}, data: {folder}/set{number}}}\n")
    (folder / "mine.yaml").write_text(f"datasets:\n{''.join(entries)}")
    return folder


def words_of(folder: Path, output: Path) -> list[str]:
    words = ["evaluate", "--device", "cpu", "--suite", f"{folder}/mine.yaml"]
    words += ["--model", f"{folder}/model"]
    return [*words, "--output", str(output), "--embedding-cache", str(output / "cache")]


def start_ranks(folder: Path, output: Path) -> subprocess.Popen[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=2"]
    launcher += [f"--master_port={free_port()}", "-m", "clipkit.cli.main"]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, *launcher, *words_of(folder, output)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(paths)},
    )


def results(output: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in output.glob("*.json")}


def wait_for(output: Path, number: int) -> None:
    end = time.monotonic() + SECONDS
    while len(results(output)) < number:
        assert time.monotonic() < end
        time.sleep(0.005)


def check_the_rest(output: Path, before: dict[str, bytes], out: str) -> None:
    """The next run kept what was there, and added the rest."""
    now = results(output)
    assert len(now) == NUM_DATA
    assert before.items() <= now.items()
    kept = len(before)
    assert f"{NUM_DATA - kept} results measured, {kept} kept, 0 failed" in out
    assert not list(output.rglob("*.tmp"))
    for content in now.values():
        json.loads(content)


@pytest.mark.parametrize("complete", [0, 1, 3])
def test_a_killed_run_continues(folder, tmp_path, complete):
    output = tmp_path / "out"
    process = Command(words_of(folder, output), tmp_path / "killed.log")
    wait_for(output, complete)
    if not complete:
        time.sleep(0.3)
    process.kill()
    for part in output.rglob("*.tmp"):  # what a killed process was writing is never read
        part.unlink()

    before = results(output)
    out = Command(words_of(folder, output), tmp_path / "log.txt").end()
    check_the_rest(output, before, out)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_ends_the_run_and_nothing_is_lost(folder, tmp_path, lost):
    output = tmp_path / "out"
    process = start_ranks(folder, output)
    wait_for(output, 1)
    (victim,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.environ().get("RANK") == str(lost)
    ]
    os.kill(victim.pid, signal.SIGKILL)
    before = results(output)
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    assert "another rank ended" in out
    assert f"of {NUM_DATA} results are complete in {output}" in out
    assert before.items() <= results(output).items()
    for part in output.rglob("*.tmp"):
        part.unlink()

    before = results(output)
    again = command_on_ranks(words_of(folder, output), 2)
    assert [status for status, _ in again] == [0, 0]
    check_the_rest(output, before, again[0][1])
