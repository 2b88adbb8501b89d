"""A run that is killed by SIGKILL is told from its record, and the next one continues it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from lightning.pytorch import Callback

from clipkit.runs import load_runs, read_run
from clipkit.training.callbacks import RunRecorder, SaveCheckpoint
from clipkit.training.loggers.metrics_csv import MetricsCsv
from tests.helpers import tiny
from tests.helpers.ranks import fork_server


class Kill(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGKILL)


def train(shards: Path, run: Path, *callbacks: Callback) -> None:
    last = run / "last.ckpt"
    callbacks = (RunRecorder(), SaveCheckpoint(every_n_steps=1), *callbacks)
    trainer = tiny.trainer(run, *callbacks, max_steps=5, logger=MetricsCsv(str(run)))
    data = tiny.data(shards)
    trainer.fit(tiny.module(), datamodule=data, ckpt_path=last if last.exists() else None)


def fit(shards: Path, run: Path, *callbacks: Callback) -> int | None:
    process = fork_server().Process(target=train, args=(shards, run, *callbacks))
    process.start()
    process.join(300)
    return process.exitcode


def test_a_killed_run_is_told_and_continues(tmp_path: Path) -> None:
    tiny.shards(tmp_path / "shards")
    run = tmp_path / "runs/first"
    assert fit(tmp_path / "shards", run, Kill()) == -signal.SIGKILL
    assert read_run(run).state == "running"
    (record,) = load_runs([tmp_path / "runs"])
    assert record.state == "killed"
    assert record.place_of(record.checkpoint) == str(run / "last.ckpt")
    assert fit(tmp_path / "shards", run) == 0
    (record,) = load_runs([tmp_path / "runs"])
    assert (record.state, record.step) == ("finished", 5)
