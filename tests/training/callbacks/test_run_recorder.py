"""``run.json`` of runs that finish, fail, stop and continue."""

from __future__ import annotations

import json
import os
import signal

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipkit.runs import load_runs, read_run
from clipkit.training.callbacks import (
    ReplaceRun,
    RunRecorder,
    SaveCheckpoint,
    StopOnSignal,
)
from clipkit.training.loggers.metrics_csv import MetricsCsv
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks


class At(Callback):
    """Calls a function at a step, with the record as it is then."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.action()


def fit(shards, run, *callbacks, ckpt=None, **options):
    callbacks = (RunRecorder(), *callbacks, SaveCheckpoint(monitor="train/loss", mode="min"))
    options = {"max_steps": 4, "logger": MetricsCsv(str(run)), **options}
    trainer = tiny.trainer(run, *callbacks, **options)
    module = tiny.module()
    module.run_config = {"data": {"batch_size": 4}, "trainer": {"default_root_dir": str(run)}}
    trainer.fit(module, datamodule=tiny.data(shards), ckpt_path=ckpt)
    return module


def test_a_run_that_finishes(shards, tmp_path):
    running = []
    fit(shards, tmp_path, At(2, lambda: running.append(read_run(tmp_path))))
    assert running[0].state == "running"
    assert running[0].pid == os.getpid()
    record = read_run(tmp_path)
    assert (record.state, record.step, record.world_size) == ("finished", 4, 1)
    assert record.metrics["train/loss"] > 0
    assert record.checkpoint == "last.ckpt"
    assert (tmp_path / record.checkpoint).exists()
    assert len(record.config_hash) == 12
    assert record.data_fingerprint
    assert record.versions["torch"]
    assert record.updated >= record.started > 0
    assert load_runs([tmp_path])[0] == record


def test_the_hash_does_not_depend_on_the_folder(shards, tmp_path):
    for name in "ab":
        fit(shards, tmp_path / name)
    first, second = load_runs([tmp_path])
    assert first.config_hash == second.config_hash
    assert first.data_fingerprint == second.data_fingerprint


def test_a_run_that_fails(shards, tmp_path):
    def fail():
        raise ValueError("the\ndisk is <full>")

    with pytest.raises(ValueError, match="disk"):
        fit(shards, tmp_path, At(2, fail))
    record = read_run(tmp_path)
    assert (record.state, record.step) == ("failed", 2)
    assert record.error == "ValueError: the; disk is <full>"


def test_a_run_that_is_stopped_and_continues(shards, tmp_path):
    with pytest.raises(SIGTERMException):
        fit(shards, tmp_path, At(2, lambda: os.kill(os.getpid(), signal.SIGTERM)), StopOnSignal())
    stopped = read_run(tmp_path)
    assert stopped.state == "stopped"
    content = json.loads((tmp_path / "run.json").read_text())
    content["metrics"]["val/of_the_first_launch"] = 0.5
    (tmp_path / "run.json").write_text(json.dumps(content))
    fit(shards, tmp_path, ckpt=str(tmp_path / "last.ckpt"))
    record = read_run(tmp_path)
    assert (record.state, record.step) == ("finished", 4)
    assert record.metrics["val/of_the_first_launch"] == 0.5
    assert record.started > stopped.started


def test_a_new_run_takes_over_no_metrics(shards, tmp_path):
    fit(shards, tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    content["metrics"]["val/old"] = 0.5
    (tmp_path / "run.json").write_text(json.dumps(content))
    fit(shards, tmp_path, ReplaceRun())
    assert "val/old" not in read_run(tmp_path).metrics


def test_a_run_that_ends_before_the_first_batch_leaves_the_earlier_record(shards, tmp_path):
    fit(shards, tmp_path)
    before = (tmp_path / "run.json").read_bytes()

    class Refuse(Callback):
        def on_train_start(self, *_):
            raise RuntimeError("refused")

    with pytest.raises(RuntimeError, match="refused"):
        fit(shards, tmp_path, Refuse())
    assert (tmp_path / "run.json").read_bytes() == before


def test_a_disk_that_is_full_does_not_end_the_run(shards, tmp_path, monkeypatch, caplog):
    def refuse(record):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("clipkit.training.callbacks.run_files.run_recorder.write_run", refuse)
    fit(shards, tmp_path)
    assert caplog.text.count("run.json: not written: No space left on device") == 1


def test_without_a_logger_the_record_has_no_metrics(shards, tmp_path):
    fit(shards, tmp_path, logger=False)
    assert read_run(tmp_path).metrics == {}
    assert read_run(tmp_path).state == "finished"


def recorded_rank(rank, world_size, shards, run):
    fit(shards, run, devices=world_size, strategy="ddp")


def test_the_first_of_two_ranks_writes_the_record(shards, tmp_path):
    run_ranks(recorded_rank, 2, shards, tmp_path)
    record = read_run(tmp_path)
    assert (record.state, record.step, record.world_size) == ("finished", 4, 2)
    assert record.metrics["train/loss"] > 0
