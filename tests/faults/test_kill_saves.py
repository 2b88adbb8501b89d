"""kill -9 while checkpoints are written in the background: what was complete stays complete."""

from __future__ import annotations

import multiprocessing as mp
import os
import random
import re
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from lightning.pytorch import Callback

from clipkit.models.files.sharded import META, read_checkpoint
from clipkit.training import ShardedStrategy
from clipkit.training.callbacks import ExponentialMovingAverage, KeyLog, SaveCheckpoint
from clipkit.training.checkpoints.newest import newest_complete
from tests.helpers import tiny
from tests.helpers.ranks import PRELOADED, free_port
from tests.helpers.slow_writes import differences

STEPS, BEST_STEP = 160, 100
OF_A_LAUNCH = re.compile(r"\.optim_progress/optimizer/.*/current/|val_loop\.|/SaveCheckpoint/")
KILLS = {"file": 9, "parts": 3}
RANKS = {"file": 1, "parts": 2}


class Score(Callback):
    """Logs the metric that is monitored: the best state is that of one step."""

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("score", float(-abs(trainer.global_step - BEST_STEP)))


class Pace(Callback):
    """Marks that a save of this launch is complete, and gives writes the time of a longer step."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark
        self.first = 0

    def on_train_start(self, trainer, pl_module):
        self.first = trainer.global_step

    def on_train_batch_start(self, trainer, *_: Any) -> None:
        if trainer.global_step >= self.first + 2:  # the second save has waited for the first one
            self.mark.touch()
        time.sleep(0.01)


def train(rank: int, world_size: int, shards: Path, run: Path, kind: str) -> None:
    """Continue the run to its end; every step is saved, every seventh is kept, and the best one."""
    torch.set_num_threads(1)
    saver = SaveCheckpoint(every_n_steps=1, keep_every_n_steps=7, monitor="score", background=True)
    log = KeyLog(str(run / "keys.txt"))
    options: dict[str, Any] = {}
    if kind == "parts":
        options = {"strategy": ShardedStrategy(checkpoint="sharded"), "num_nodes": 1}
    trainer = tiny.trainer(
        run, ExponentialMovingAverage(), log, Score(), saver, Pace(run / "trains"), max_steps=STEPS,
        devices=world_size, val_check_interval=10, check_val_every_n_epoch=None, **options,
    )  # fmt: skip
    ckpt = newest_complete(str(run))
    data = tiny.data(shards, 8 // world_size, val=True)
    trainer.fit(tiny.module(), datamodule=data, ckpt_path=ckpt)


def connect_and_train(rank: int, port: int, shards: Path, run: Path, kind: str) -> None:
    """One of two ranks."""
    os.environ.update(
        MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2",
        LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE="2", NODE_RANK="0", GLOO_SOCKET_IFNAME="lo",
    )  # fmt: skip
    dist.init_process_group("gloo", rank=rank, world_size=2)
    train(rank, 2, shards, run, kind)
    dist.destroy_process_group()


def start(shards: Path, run: Path, kind: str) -> list[Any]:
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    if kind == "file":
        processes = [context.Process(target=train, args=(0, 1, shards, run, kind))]
    else:
        port = free_port()
        processes = [
            context.Process(target=connect_and_train, args=(rank, port, shards, run, kind))
            for rank in range(2)
        ]
    for process in processes:
        process.start()
    return processes


def wait_until_it_trains(mark: Path, processes: list[Any]) -> None:
    end = time.monotonic() + 120
    while not mark.exists() and any(process.is_alive() for process in processes):
        assert time.monotonic() < end
        time.sleep(0.002)


def wait_for_a_write(run: Path, processes: list[Any]) -> None:
    """Return in the middle of a write, which is always near: every step is saved."""
    while not any(run.glob(".*.tmp")) and any(process.is_alive() for process in processes):
        time.sleep(0.001)


def content_of(path: Path) -> dict[str, Any]:
    file = path / META if path.is_dir() else path
    return dict(torch.load(file, weights_only=True))


def step_of(path: Path) -> int:
    return int(content_of(path)["global_step"])


def check_best(run: Path, found: Path) -> None:
    """The best state that a checkpoint knows is there, but for its name if it is the best itself.

    Which one is best depends on the kills: Lightning leaves out the validation of the step from
    which a run continues.
    """
    content = content_of(found)
    known = content["callbacks"]["SaveCheckpoint"]
    if known["best_step"] not in (-1, content["global_step"]):
        assert step_of(run / "best.ckpt") == known["best_step"]
        assert known["best"] == -abs(known["best_step"] - BEST_STEP)


@pytest.mark.parametrize("kind", KILLS)
def test_nothing_is_lost(shards: Path, tmp_path: Path, kind: str) -> None:
    dice = random.Random(7)
    whole, run = tmp_path / "whole", tmp_path / "run"
    run.mkdir()
    whole.mkdir()
    for process in start(shards, whole, kind):
        process.join()
    reached, half = 0, 0
    for number in range(KILLS[kind]):
        (run / "trains").unlink(missing_ok=True)
        processes = start(shards, run, kind)
        wait_until_it_trains(run / "trains", processes)
        time.sleep(dice.uniform(0.0, 0.4))
        if number % 2 == 0:
            wait_for_a_write(run, processes)
        before = reached
        for process in dice.sample(processes, len(processes)):
            process.kill()
        for process in processes:
            process.join()
        half += any(run.glob(".*.tmp")) or any(run.glob(".*.former"))
        found = newest_complete(str(run))
        if found is not None:
            reached = step_of(Path(found))
            assert Path(found).name == "last.ckpt" or kind == "parts"
            check_best(run, Path(found))
        assert reached >= before
        if reached > 0.7 * STEPS:  # a launch on a slow machine may be far ahead
            break
    assert reached > 0
    assert half > 0, "no kill met a write: this test tells nothing"
    for process in start(shards, run, kind):
        process.join()
        assert process.exitcode == 0
    assert step_of(whole / "best.ckpt") == BEST_STEP
    check_best(run, run / "last.ckpt")
    for name in ("last.ckpt", "step=7.ckpt", "step=154.ckpt"):
        first, second = (read_checkpoint(folder / name) for folder in (whole, run))
        # Lightning's current counts of the optimizer's calls and of validations are of a launch,
        # and the best step is one of those that were validated
        lines = [line for line in differences(first, second) if not OF_A_LAUNCH.search(line)]
        assert not lines, name
    # the ranks write to one file, in any order
    first, second = (
        sorted((folder / "keys.txt").read_text().split("\n")) for folder in (whole, run)
    )
    assert first == second
    assert not list(run.glob(".*"))
