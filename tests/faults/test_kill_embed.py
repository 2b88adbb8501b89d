"""``clipkit embed`` that is killed: complete shards stay, the next start embeds the rest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from clipkit.models import save_encoder
from tests.helpers.embedding import contents
from tests.helpers.evaluation_data import tiny_encoder, write_layout
from tests.helpers.ranks import free_port

ROOT = Path(__file__).resolve().parents[2]
NUM_SHARDS = 12
SECONDS = 200


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("embed")
    save_encoder(tiny_encoder(), folder / "model")
    write_layout(folder / "set", (40,) * NUM_SHARDS)
    process = start(folder, folder / "expected")
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out
    return folder


def start(folder: Path, output: Path, *more: str, ranks: int = 1) -> subprocess.Popen[str]:
    words = ["-m", "clipkit.cli.main", "embed", f"{folder}/set", "--device", "cpu", *more]
    words += ["--model", f"{folder}/model", "--output", str(output), "--batch-size", "8"]
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


def wait_for(output: Path, num_shards: int) -> None:
    end = time.monotonic() + SECONDS
    while len(list(output.glob("*.parquet"))) < num_shards:
        assert time.monotonic() < end
        time.sleep(0.002)


def continue_to_the_end(folder: Path, output: Path, ranks: int) -> None:
    """The next start keeps the files of complete shards, and makes those of an undisturbed run."""
    times = {path: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
    process = start(folder, output, ranks=ranks)
    out, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, out
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
        time.sleep(2)
    process.kill()
    process.communicate(timeout=SECONDS)
    continue_to_the_end(folder, output, ranks=1)


@pytest.mark.parametrize("lost", [0, 1])
def test_a_killed_rank_ends_the_run_and_the_next_one_continues(folder, tmp_path, lost):
    output = tmp_path / "out"
    process = start(folder, output, ranks=2)
    wait_for(output, 1)
    (victim,) = [
        child
        for child in psutil.Process(process.pid).children(recursive=True)
        if child.environ().get("RANK") == str(lost) and child.parent().pid == process.pid
    ]
    os.kill(victim.pid, signal.SIGKILL)
    process.communicate(timeout=SECONDS)
    assert process.returncode != 0
    continue_to_the_end(folder, output, ranks=2)


def test_two_starts_and_two_parts_at_the_same_time(folder, tmp_path):
    output = tmp_path / "out"
    parts = ("1/2", "2/2", "1/1", "1/1")
    processes = [start(folder, output, "--part", part) for part in parts]
    for process in processes:
        out, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == 0, out
    assert not list(output.glob(".*"))
    assert contents(output) == contents(folder / "expected")
