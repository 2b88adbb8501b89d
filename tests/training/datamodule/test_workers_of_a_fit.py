"""Worker processes of training and validation in a fit: the same numbers, and none left."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from clipkit.data.stream import workers
from tests.helpers import tiny
from tests.helpers.leftovers import Leftovers


class Recorder(Callback):
    """Losses of validation, and the processes that are running then."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.processes: list[int] = []
        self.left = Leftovers()

    def on_validation_batch_end(self, *_: Any) -> None:
        self.processes.append(self.left.num_processes())

    def on_validation_end(self, trainer: Any, *_: Any) -> None:
        self.losses.append(float(trainer.callback_metrics["val/loss"]))


def fit(shards: Path, folder: Path, num_workers: int) -> tuple[Recorder, dict[str, torch.Tensor]]:
    recorder, module = Recorder(), tiny.module()
    trainer = tiny.trainer(folder, recorder, max_epochs=2)
    data = tiny.data(shards, val=True, num_workers=num_workers)
    trainer.fit(module, datamodule=data)
    assert data.val_dataloader()._num_workers == num_workers
    assert recorder.left.num_processes() == 0
    return recorder, module.state_dict()


def test_a_fit_with_workers_is_that_without(shards: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(workers, "TASK_SAMPLES", 2)
    plain, weights = fit(shards, tmp_path / "plain", 0)
    mine, my_weights = fit(shards, tmp_path / "workers", 2)
    assert mine.losses == plain.losses
    assert len(mine.losses) == 2
    assert set(plain.processes) == {0}
    assert min(mine.processes) >= 2  # of training; those of validation may have ended already
    for name, weight in weights.items():
        assert torch.equal(my_weights[name], weight), name


class AtSteps(Callback):
    """The processes that run at the starts of steps; the third one may raise."""

    def __init__(self, fails: bool) -> None:
        self.fails = fails
        self.processes: list[int] = []
        self.left = Leftovers()

    def on_train_batch_start(self, *_: Any) -> None:
        self.processes.append(self.left.num_processes())
        if self.fails and len(self.processes) == 3:
            raise ValueError("the third step")


def test_a_partial_validation_leaves_no_workers(
    shards: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr(workers, "TASK_SAMPLES", 2)
    at_steps = AtSteps(fails=False)
    limits = {"num_sanity_val_steps": 1, "limit_val_batches": 1, "max_steps": 2}
    trainer = tiny.trainer(tmp_path, at_steps, **limits)
    trainer.fit(tiny.module(), datamodule=tiny.data(shards, val=True, num_workers=2, batch_size=2))
    assert at_steps.processes == [2, 2]


def test_a_fit_that_fails_leaves_no_workers(shards: Path, tmp_path: Path) -> None:
    at_steps = AtSteps(fails=True)
    trainer = tiny.trainer(tmp_path, at_steps, max_steps=5)
    with pytest.raises(ValueError, match="the third step"):
        trainer.fit(tiny.module(), datamodule=tiny.data(shards, num_workers=2))
    assert at_steps.left.num_processes() == 0
