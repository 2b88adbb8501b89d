"""What loggers learn of checkpoints, from a trainer in Python."""

from __future__ import annotations

import logging

import pytest
import torch
from lightning.pytorch.loggers.logger import DummyLogger

from clipkit.training.callbacks import SaveCheckpoint
from tests.helpers import tiny


class Record(DummyLogger):
    """Remembers what it was told."""

    def __init__(self, log_model=False, error=None):
        super().__init__()
        self._log_model, self.error = log_model, error
        self.params, self.saved = [], []

    def log_hyperparams(self, params):
        self.params.append(params)
        if self.error:
            raise self.error

    def after_save_checkpoint(self, saver):
        names = (saver.last_model_path, saver.best_model_path)
        self.saved.append(tuple(path.rpartition("/")[2] for path in names))
        if self.error:
            raise self.error


def fit(shards, run, *loggers, ckpt=None, max_steps=4, **options):
    saver = SaveCheckpoint(monitor="val/loss", mode="min", **options)
    trainer = tiny.trainer(
        run, saver, logger=list(loggers), max_steps=max_steps, val_check_interval=2
    )
    module = tiny.module()
    trainer.fit(module, datamodule=tiny.data(shards, val=True), ckpt_path=ckpt)
    return trainer, saver


def test_paths_and_scores_are_those_of_the_files(shards, tmp_path):
    record = Record()
    trainer, saver = fit(shards, tmp_path, record)
    assert saver.last_model_path == f"{tmp_path}/last.ckpt"
    assert saver.best_model_path == f"{tmp_path}/best.ckpt"
    stored = torch.load(saver.best_model_path, weights_only=True)
    best = -stored["callbacks"]["SaveCheckpoint"]["best"]
    assert float(saver.best_model_score) == pytest.approx(best)
    assert record.saved[0] == ("last.ckpt", "best.ckpt")
    (result,) = trainer.test(datamodule=tiny.data(shards, val=True), ckpt_path="best")
    assert result["test/loss"] == pytest.approx(best, rel=1e-5)


def test_a_resumed_run_knows_its_best_checkpoint(shards, tmp_path):
    _, first = fit(shards, tmp_path)
    best = float(first.best_model_score)
    _, second = fit(shards, tmp_path, ckpt=tmp_path / "last.ckpt", max_steps=5)
    assert second.best_model_path == first.best_model_path
    assert float(second.best_model_score) <= best


class RecordAll(Record):
    """A logger of another name."""


class ServiceError(Exception):
    """What MLflow and W&B raise if their server fails: neither is an OSError."""


def test_loggers_that_fail_do_not_end_the_run(shards, tmp_path, caplog):
    """One of them does not fail."""
    errors = [OSError("no space left"), ServiceError("no server"), RuntimeError(), None]
    records = [Record(error=error) for error in errors]
    trainer, _ = fit(shards, tmp_path, *records)
    assert trainer.global_step == 4
    for record in records:
        assert [params["environment"]["world_size"] for params in record.params] == [1]
    num_saves = len(records[-1].saved)
    assert num_saves > 0
    for reason in ("no space left", "no server", "RuntimeError"):
        assert caplog.text.count(f"checkpoint not uploaded: {reason}") == num_saves
    assert caplog.text.count("checkpoint not uploaded") == 3 * num_saves
    assert caplog.text.count("did not accept the configuration") == 3


class RecordToTheEnd(Record):
    """Uploads at the end of the fit, as with ``log_model: true``, which fails."""

    def finalize(self, status):
        raise ServiceError("no server")


def test_an_upload_that_fails_at_the_end_leaves_a_complete_run(shards, tmp_path):
    with pytest.raises(ServiceError, match="no server"):
        fit(shards, tmp_path, RecordToTheEnd())
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 4


def test_checkpoints_in_a_store_are_not_silently_left_out(shards, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        fit(shards, tmp_path, RecordAll(True), Record(False), folder="memory://uploads/run")
    assert "RecordAll.log_model: expected checkpoints that are files" in caplog.text
    assert "Record.log_model" not in caplog.text


def test_tips_for_products_are_dropped_and_other_messages_stay(caplog):
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    level = logger.level
    logger.setLevel(logging.INFO)
    with caplog.at_level(logging.INFO):
        tiny.trainer("anywhere")
        logger.info("another message")
    logger.setLevel(level)
    assert "Tip" not in caplog.text
    assert "another message" in caplog.text
