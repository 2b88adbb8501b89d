"""Batches built in advance, over the ends of epochs."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import pytest
import torch

from clipkit.data.order.partition import BatchTask, EpochPartition
from clipkit.data.samples.faults import Fault
from clipkit.data.samples.joining import PadIds
from clipkit.data.stream.builder import BuildResult
from clipkit.data.stream.workers import BatchLoader
from clipkit.types import Batch

PARTITION = EpochPartition(
    num_samples=7, batch_size=2, rank=0, world_size=1, tail="drop", carries=False
)


@dataclass
class Recorder:
    """Builds batches that contain the task's epoch and position, and writes each task down."""

    log: Path

    def build(self, task: BatchTask) -> BuildResult:
        with self.log.open("a") as file:
            file.write(f"{task.epoch}.{task.first}\n")
        place = torch.tensor([task.epoch, task.first])
        faults: list[Fault] = []
        return BuildResult(Batch(torch.zeros(2, 3, 1, 1), place[None], place, ("", "")), faults)


def places(loader: BatchLoader, epoch: int, position: int = 0, count: int = 99) -> list[str]:
    results = islice(loader.run(PARTITION, epoch, position), count)
    batches = [result.batch for result in results]
    return [".".join(map(str, batch.labels.tolist())) for batch in batches if batch is not None]


def built(log: Path) -> list[str]:
    return log.read_text().split() if log.exists() else []


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("builds_ahead", [True, False])
def test_every_run_has_its_own_batches(
    tmp_path: Path, num_workers: int, builds_ahead: bool
) -> None:
    loader = BatchLoader(Recorder(tmp_path / "log"), num_workers, PadIds(), builds_ahead)
    assert places(loader, 0) == ["0.0", "0.2", "0.4"]
    assert places(loader, 1) == ["1.0", "1.2", "1.4"]  # built in advance, where that is done
    assert places(loader, 5, 2) == ["5.2", "5.4"]  # elsewhere
    assert places(loader, 6, count=1) == ["6.0"]  # given up
    assert places(loader, 6) == ["6.0", "6.2", "6.4"]
    assert places(loader, 6, 7) == ["7.0", "7.2", "7.4"]  # an end stands for the next start


@pytest.mark.parametrize("builds_ahead", [True, False])
def test_the_next_epoch_begins_before_it_is_asked_for(tmp_path: Path, builds_ahead: bool) -> None:
    log = tmp_path / "log"
    loader = BatchLoader(Recorder(log), 1, PadIds(), builds_ahead=builds_ahead)
    assert places(loader, 0) == ["0.0", "0.2", "0.4"]
    deadline = time.monotonic() + 60
    while builds_ahead and "1.0" not in built(log) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert ("1.0" in built(log)) == builds_ahead


def test_what_is_built_in_advance_is_used_by_a_loop_that_counts(tmp_path: Path) -> None:
    """As Lightning does: it takes ``len`` batches and never asks for one more."""
    log = tmp_path / "log"
    loader = BatchLoader(Recorder(log), 1, PadIds(), builds_ahead=True)
    for epoch in range(3):
        assert len(list(islice(loader.run(PARTITION, epoch, 0), 3))) == 3
    assert built(log)[:9] == [f"{epoch}.{place}" for epoch in range(3) for place in (0, 2, 4)]


def test_a_rank_without_batches_comes_to_an_end() -> None:
    idle = replace(PARTITION, num_samples=1, rank=1, world_size=2, tail="keep")
    assert list(idle.tasks_of_epochs(0, 0)) == []
    loader = BatchLoader(Recorder(Path("unused")), 0, PadIds(), builds_ahead=True)
    assert [list(loader.run(idle, epoch, 0)) for epoch in range(3)] == [[], [], []]
