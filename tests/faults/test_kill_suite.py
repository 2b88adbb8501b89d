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
from tests.helpers.evaluation_data import tiny_encoder, write_layout
from tests.helpers.ranks import free_port

ROOT = Path(__file__).resolve().parents[2]
NUM_DATA = 6
SECONDS = 200


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


def start(folder: Path, output: Path, ranks: int) -> subprocess.Popen[str]:
    words = ["-m", "clipkit.cli.main", "evaluate", "--device", "cpu"]
    words += ["--suite", f"{folder}/mine.yaml", "--model", f"{folder}/model"]
    words += ["--output", str(output), "--embedding-cache", str(output / "cache")]
    if ranks > 1:
        launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"]
        words = [*launcher, f"--master_port={free_port()}", *words]
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return subprocess.Popen(
        [sys.executable, *words],
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


def continue_to_the_end(folder: Path, output: Path, before: dict[str, bytes], ranks: int) -> None:
    """The next run keeps what was there, and adds the rest."""
    process = start(folder, output, ranks)
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out
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
    process = start(folder, output, 1)
    wait_for(output, complete)
    if not complete:
        time.sleep(3)
    process.kill()
    process.communicate(timeout=SECONDS)
    for part in output.rglob("*.tmp"):  # what a killed process was writing is never read
        part.unlink()

    continue_to_the_end(folder, output, results(output), 1)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_ends_the_run_and_nothing_is_lost(folder, tmp_path, lost):
    output = tmp_path / "out"
    process = start(folder, output, 2)
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

    continue_to_the_end(folder, output, results(output), 2)
