"""Checkpoints that are written while training continues: of their step, and never half."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.plugins.io import AsyncCheckpointIO
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models.files.pieces import Piece
from clipkit.models.files.sharded import ShardedContent
from clipkit.training.callbacks import (
    ExponentialMovingAverage,
    SaveCheckpoint,
    StepGuard,
    StopOnSignal,
)
from clipkit.training.checkpoints import files, places
from clipkit.training.checkpoints.staging import HostStage
from tests.helpers import tiny
from tests.helpers.bad_steps import Poison
from tests.helpers.slow_writes import differences, held_writes

NO_CLOCK = {"every_n_minutes": None}


class At(Callback):
    """Calls a function after a step."""

    def __init__(self, step, action):
        self.step, self.action = step, action

    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == self.step:
            self.action()


class Figures(DummyLogger):
    def __init__(self):
        super().__init__()
        self.rows = []

    def log_metrics(self, metrics, step=None):
        self.rows.append(dict(metrics))


def fit(shards, run, *callbacks, **options):
    trainer = tiny.trainer(run, *callbacks, **{"max_steps": 7, **options})
    trainer.fit(tiny.module(labels=True), datamodule=tiny.data(shards, val=True))
    return trainer


def load(path):
    return torch.load(path, weights_only=True)


def names(run):
    return sorted(path.name for path in Path(run).glob("*"))


def test_the_state_is_that_of_the_step_of_the_save(shards, tmp_path):
    """The write begins when three more steps have changed weights, moments and averages."""
    at_once, later = tmp_path / "at_once", tmp_path / "later"
    options = {**NO_CLOCK, "keep_every_n_steps": 4}
    fit(shards, at_once, ExponentialMovingAverage(), SaveCheckpoint(**options))
    seen: list[str] = []
    with held_writes() as event:
        look, release = At(7, lambda: seen.extend(names(later))), At(7, event.set)
        saver = SaveCheckpoint(**options, background=True)
        fit(shards, later, ExponentialMovingAverage(), saver, look, release)
    assert not seen
    assert names(later) == names(at_once) == ["last.ckpt", "step=4.ckpt"]
    for name in names(at_once):
        assert not differences(load(at_once / name), load(later / name))
    assert load(later / "step=4.ckpt")["global_step"] == 4


def test_best_gets_its_name_and_score_when_it_is_complete(shards, tmp_path):
    saver = SaveCheckpoint(**NO_CLOCK, monitor="val/loss", mode="min", background=True)
    scores: list[object] = []
    with held_writes() as event:
        look, release = At(4, lambda: scores.append(saver.best_model_score)), At(4, event.set)
        fit(shards, tmp_path, saver, look, release, max_steps=5, val_check_interval=3)
    assert scores == [None]
    assert load(tmp_path / "best.ckpt")["global_step"] == 3
    assert saver.best_model_path == f"{tmp_path}/best.ckpt"
    assert saver.best_model_score == saver.current_score


class Scores(Callback):
    """Logs a number in each validation."""

    def __init__(self, *scores):
        self.scores = iter(scores)

    def on_validation_epoch_end(self, trainer, pl_module):
        pl_module.log("score", next(self.scores))


def best_of(run):
    """Step of the best checkpoint, and the value and step that the last one knows."""
    known = load(run / "last.ckpt")["callbacks"]["SaveCheckpoint"]
    return load(run / "best.ckpt")["global_step"], known["best"], known["best_step"]


BACKGROUND = pytest.mark.parametrize("background", [False, True], ids=["at once", "background"])


@BACKGROUND
@pytest.mark.parametrize("broken", ["write_file", "duplicate"])
def test_a_best_checkpoint_that_was_not_written_is_not_the_best(
    shards, tmp_path, monkeypatch, background, broken
):
    """Its value would keep every later one from being saved: 0.7 is the best that can be."""
    module = {"write_file": places, "duplicate": files}[broken]
    real, calls = getattr(module, broken), []

    def fail_the_second_time(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return real(*args)

    monkeypatch.setattr(module, broken, fail_the_second_time)
    saver = SaveCheckpoint(**NO_CLOCK, monitor="score", background=background)
    scores, every = Scores(0.5, 0.9, 0.7, 0.6), {"max_steps": 9, "val_check_interval": 2}
    fit(shards, tmp_path, scores, saver, check_val_every_n_epoch=None, **every)
    assert best_of(tmp_path) == (6, pytest.approx(0.7), 6)
    assert saver.best_model_score == pytest.approx(0.7)


@BACKGROUND
@pytest.mark.parametrize("kept", [None, 2], ids=["last", "kept"])
def test_a_kill_before_the_second_name_loses_no_best_checkpoint(shards, tmp_path, background, kept):
    """The step is saved before the validation, too, with the value of the validation before."""
    options = {"every_n_steps": 2, "keep_every_n_steps": kept, "monitor": "score"}
    every = {"val_check_interval": 2, "check_val_every_n_epoch": None}
    saver = SaveCheckpoint(**NO_CLOCK, **options, background=background)
    fit(shards, tmp_path, Scores(0.5, 0.9), saver, max_steps=4, **every)
    assert best_of(tmp_path) == (4, pytest.approx(0.9), 4)
    second = SaveCheckpoint(**NO_CLOCK, **options, background=background)
    previous = tmp_path / "step=2.ckpt"
    (tmp_path / "best.ckpt").unlink()
    if previous.exists():
        previous.replace(tmp_path / "best.ckpt")
    trainer = tiny.trainer(tmp_path, Scores(0.7), second, max_steps=6, **every)
    trainer.fit(
        tiny.module(labels=True), tiny.data(shards, val=True), ckpt_path=tmp_path / "last.ckpt"
    )
    assert best_of(tmp_path) == (4, pytest.approx(0.9), 4)
    assert second.best_model_path == str(tmp_path / "best.ckpt")


def test_bytes_and_seconds_are_logged(shards, tmp_path):
    for background in (False, True):
        run, figures = tmp_path / str(background), Figures()
        with held_writes(0.5):
            saver = SaveCheckpoint(**NO_CLOCK, background=background)
            fit(shards, run, saver, logger=figures, max_steps=2)
        (row,) = [row for row in figures.rows if "checkpoint/bytes" in row]
        assert row["checkpoint/bytes"] == (run / "last.ckpt").stat().st_size
        assert row["checkpoint/stall_seconds"] > 0
        assert (row["checkpoint/write_seconds"] > 0.5) == background


def test_a_write_that_fails_is_tried_again(shards, tmp_path, monkeypatch, caplog):
    real, calls = places.write_file, iter([False, True, True, False, False, False, False])

    def write(content, path):
        if next(calls):
            raise OSError(28, "No space left on device")
        return real(content, path)

    monkeypatch.setattr(places, "write_file", write)
    trainer = fit(shards, tmp_path, SaveCheckpoint(every_n_steps=1, background=True), max_steps=6)
    assert trainer.global_step == 6
    assert caplog.text.count("No space left on device; the run continues") == 2
    assert load(tmp_path / "last.ckpt")["global_step"] == 6


def test_the_end_waits_and_raises_what_went_wrong(shards, tmp_path, monkeypatch):
    def write(content, path):
        raise ValueError("odd")

    monkeypatch.setattr(places, "write_file", write)
    with pytest.raises(CheckpointError, match=r"after step 2 could not be written \(ValueError: o"):
        fit(shards, tmp_path, SaveCheckpoint(background=True), max_steps=2)


@pytest.mark.parametrize("end", ["SIGTERM", "error"])
def test_an_interruption_waits_for_the_write(shards, tmp_path, end):
    """The write of step 2 takes long; the state of the interrupted step is there, too."""

    class Crash(Callback):
        def on_before_backward(self, trainer, *_):
            if trainer.global_step == 3 and end == "error":
                raise RuntimeError("crash")

    def stop():
        if end == "SIGTERM":
            os.kill(os.getpid(), signal.SIGTERM)

    saver = SaveCheckpoint(**NO_CLOCK, keep_every_n_steps=2, background=True)
    with held_writes(0.2), pytest.raises((SystemExit, RuntimeError)):
        fit(shards, tmp_path, StopOnSignal(), saver, At(3, stop), Crash())
    assert load(tmp_path / "last.ckpt")["global_step"] == 3
    assert load(tmp_path / "step=2.ckpt")["global_step"] == 2


def test_weights_are_restored_from_the_write_that_was_under_way(shards, tmp_path, caplog):
    saver = SaveCheckpoint(every_n_steps=3, background=True)
    guard = StepGuard(max_in_a_row=2)
    with held_writes(0.2):
        fit(shards, tmp_path, Poison([4, 5]), guard, saver, max_steps=6)
    assert "restored weights and optimizer from step 3" in caplog.text


def test_a_plugin_that_writes_itself_is_refused(shards, tmp_path):
    with pytest.raises(ConfigError, match=r"SaveCheckpoint\.background: .* got AsyncCheckpointIO"):
        fit(shards, tmp_path, SaveCheckpoint(background=True), plugins=[AsyncCheckpointIO()])


class TestHostStage:
    def test_copies_are_equal_and_of_their_own(self):
        memory = torch.arange(12.0)
        weights = nn.Parameter(torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last))
        content = {
            "a": memory[2:8].view(2, 3), "b": [memory[::2], (weights, 3)], "c": {"n": "x"},
            "d": torch.tensor(True), "e": torch.empty(0, 3), "f": torch.ones(3).bfloat16(),
        }  # fmt: skip
        stage = HostStage()
        copied = stage.copy(content)
        stage.wait()
        assert not differences(content, copied)
        first = copied["b"][1][0]
        assert first.stride() == weights.stride()
        assert first.requires_grad
        memory.zero_()
        content["c"]["n"] = "y"
        assert copied["a"].sum() == sum(range(2, 8))
        assert copied["c"]["n"] == "x"
        copied["a"].fill_(7)  # views of one memory are views of one copy
        assert copied["b"][0][1:4].tolist() == [7, 7, 7]

    def test_the_memory_is_used_again(self):
        stage, content = HostStage(), {"a": torch.ones(100), "b": torch.ones(5)}
        before = stage.copy(content)["a"].data_ptr()
        assert stage.copy({"a": torch.zeros(100)})["a"].data_ptr() == before
        assert stage.num_bytes == 400

    def test_pieces_in_another_order_of_memory(self, monkeypatch):
        """They are put in order one after the other; none may be where one before it was."""
        real, sources = HostStage._bytes, []

        def noted(stage, source):
            sources.append(StorageWeakRef(source.untyped_storage()))
            assert not any(reference.expired() for reference in sources)
            return real(stage, source)

        monkeypatch.setattr(HostStage, "_bytes", noted)
        for size in (8, 64, 300):
            sources.clear()
            pieces = {
                str(i): Piece((0, 0), torch.full((size, size + 1), float(i)).T) for i in range(8)
            }
            assert not any(piece.values.is_contiguous() for piece in pieces.values())
            copied = HostStage().copy(ShardedContent(pieces, {}))
            values = [piece.values.unique().tolist() for piece in copied.pieces.values()]
            assert values == [[float(i)] for i in range(8)]
