"""How far a run is: by steps, epochs or the clock."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import timer

from clipkit.errors import ConfigError
from clipkit.training.callbacks import SaveCheckpoint
from clipkit.training.lightning_compat import all_callbacks
from clipkit.training.progress.run_progress import (
    _clock_fraction,
    run_progress,
    time_budget,
    total_steps,
)
from clipkit.when import Progress
from tests.helpers import tiny


class Watch(Callback):
    """Keeps the progress and the learning rate of every step."""

    def __init__(self) -> None:
        self.progress: list[Progress] = []
        self.rates: list[float] = []
        self.clock: list[float | None] = []
        self.budget: timedelta | None = None
        self.total = 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.progress.append(run_progress(trainer))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.clock.append(_clock_fraction(trainer))
        self.budget, self.total = time_budget(trainer), total_steps(trainer)


class Tick(Callback):
    """A clock on which every batch takes an eighth of a second."""

    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def on_train_batch_start(self, *_):
        self.now += 0.125


def watched(shards, folder, *callbacks, **options) -> Watch:
    watch = Watch()
    tiny.trainer(folder, *callbacks, watch, **options).fit(
        tiny.module(), datamodule=tiny.data(shards)
    )
    return watch


def test_steps_end_the_run(shards, tmp_path):
    watch = watched(shards, tmp_path, max_steps=8)
    assert [p.fraction for p in watch.progress] == [(n + 1) / 8 for n in range(8)]
    assert watch.total == 8


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 10), (2, 6)])
def test_epochs_end_the_run(shards, tmp_path, accumulate, steps):
    """Five batches an epoch; the last window of an epoch is a step of its own."""
    watch = watched(shards, tmp_path, max_epochs=2, accumulate_grad_batches=accumulate)
    assert watch.total == steps
    assert (watch.progress[-1].step, watch.progress[-1].fraction) == (steps, 1.0)


def test_the_first_of_two_limits_counts(shards, tmp_path):
    assert watched(shards, tmp_path, max_epochs=2, max_steps=7).total == 7


def test_clock_ends_the_run_and_its_schedule(shards, tmp_path, monkeypatch):
    """The rate has risen, and has come down to nearly nothing at the end."""
    tick, limits = Tick(), {"max_steps": -1, "max_epochs": -1, "max_time": {"seconds": 3}}
    monkeypatch.setattr(timer, "time", tick)
    watch = watched(shards, tmp_path, tick, **limits)
    assert watch.budget == timedelta(seconds=3)
    assert math.isinf(watch.total)
    fractions = [p.fraction for p in watch.progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] > 0.99
    assert len(fractions) == 24
    assert max(watch.rates) == pytest.approx(1e-3, rel=0.1)
    assert watch.rates[-1] < 0.1e-3


def test_clock_goes_on_where_a_resumed_run_left_off(shards, tmp_path):
    trainer = tiny.trainer(tmp_path, Watch(), max_steps=3, max_time={"hours": 1})
    trainer.fit(tiny.module(), datamodule=tiny.data(shards))
    timer: Any = next(c for c in all_callbacks(trainer) if type(c).__name__ == "Timer")
    timer._offset = 1800  # half an hour behind
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    watch = Watch()
    again = tiny.trainer(tmp_path, watch, max_steps=5, max_time={"hours": 1})
    again.fit(tiny.module(), datamodule=tiny.data(shards), ckpt_path=tmp_path / "half.ckpt")
    assert 0.5 <= watch.clock[0] < 0.6


def test_a_run_without_an_end_is_refused(shards, tmp_path):
    with pytest.raises(ConfigError, match="max_time"):
        watched(shards, tmp_path, max_steps=-1, max_epochs=-1)


def test_another_batch_keeps_the_schedule_by_samples(shards, tmp_path):
    """Ten steps of 4; from the fourth on in batches of 2, then of 1, then of 4 again.

    Every start goes on at the rate that its samples call for, and the run ends after the same 40
    samples: the steps in the configuration are those of the first start.
    """

    def start(folder, batch_size, stop, ckpt=None, **options):
        class Stop(Callback):
            def on_train_batch_end(self, trainer, *_):
                trainer.should_stop = trainer.global_step >= stop

        watch = Watch()
        options = options or {"max_steps": 10}
        trainer = tiny.trainer(folder, watch, Stop(), SaveCheckpoint(), **options)
        trainer.fit(tiny.module(), datamodule=tiny.data(shards, batch_size), ckpt_path=ckpt)
        return trainer.global_step, watch.rates

    last = tmp_path / "last.ckpt"
    _, whole = start(tmp_path / "whole", 4, stop=99)
    assert start(tmp_path, 4, stop=4) == (4, whole[:4])
    step, halves = start(tmp_path, 2, 8, last)  # two steps' worth of samples
    assert step == 8
    assert halves[::2] == pytest.approx(whole[4:6], abs=1e-12)
    assert halves[0] > halves[1] > halves[2]
    step, quarters = start(tmp_path, 1, 16, last)
    assert step == 16
    assert quarters[::4] == pytest.approx(whole[6:8], abs=1e-12)
    step, rest = start(tmp_path, 4, 99, last)
    assert step == 18
    assert rest == pytest.approx(whole[8:], abs=1e-12)


def test_another_batch_keeps_the_schedule_of_epochs(shards, tmp_path):
    """Two epochs of five steps; the second one has eleven, of half the size."""
    trainer = tiny.trainer(tmp_path, SaveCheckpoint(), max_epochs=1)
    trainer.fit(tiny.module(), datamodule=tiny.data(shards))
    watch = Watch()
    trainer = tiny.trainer(tmp_path, watch, max_epochs=2)
    last = tmp_path / "last.ckpt"
    trainer.fit(tiny.module(), datamodule=tiny.data(shards, 2), ckpt_path=last)
    assert trainer.global_step == 5 + 11
    assert watch.progress[0].step == 5.5
    assert watch.progress[-1].fraction == pytest.approx(0.95, abs=0.06)
