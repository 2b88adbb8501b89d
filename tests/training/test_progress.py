"""How far a run is: by steps, epochs or the clock."""

from __future__ import annotations

import math
from datetime import timedelta

import pytest
from lightning.pytorch import Callback

from clipkit.errors import ConfigError
from clipkit.training.progress import (
    RunProgress,
    _clock_fraction,
    run_progress,
    time_budget,
    total_steps,
)
from tests.training import tiny


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return tiny.shards(tmp_path_factory.mktemp("shards"))


class Watch(Callback):
    """Keeps the progress and the learning rate of every step."""

    def __init__(self) -> None:
        self.progress: list[RunProgress] = []
        self.rates: list[float] = []
        self.clock: list[float | None] = []
        self.budget: timedelta | None = None
        self.total = 0.0

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.progress.append(run_progress(trainer))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])
        self.clock.append(_clock_fraction(trainer))
        self.budget, self.total = time_budget(trainer), total_steps(trainer)


def watched(shards, folder, **options) -> Watch:
    watch = Watch()
    tiny.trainer(folder, watch, **options).fit(tiny.module(), datamodule=tiny.data(shards))
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
    assert watch.progress[-1] == RunProgress(steps, steps, 1.0)


def test_the_first_of_two_limits_counts(shards, tmp_path):
    assert watched(shards, tmp_path, max_epochs=2, max_steps=7).total == 7


def test_clock_ends_the_run_and_its_schedule(shards, tmp_path):
    """Whatever the speed: the rate has risen, and has come down to nearly nothing at the end."""
    watch = watched(shards, tmp_path, max_steps=-1, max_epochs=-1, max_time={"seconds": 3})
    assert watch.budget == timedelta(seconds=3)
    assert math.isinf(watch.total)
    fractions = [p.fraction for p in watch.progress]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert max(watch.rates) == pytest.approx(1e-3, rel=0.1)
    assert watch.rates[-1] < 0.1e-3


def test_clock_goes_on_where_a_resumed_run_left_off(shards, tmp_path):
    trainer = tiny.trainer(tmp_path, Watch(), max_steps=3, max_time={"hours": 1})
    trainer.fit(tiny.module(), datamodule=tiny.data(shards))
    timer = next(c for c in trainer.callbacks if type(c).__name__ == "Timer")
    timer._offset = 1800  # half an hour behind
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    watch = Watch()
    again = tiny.trainer(tmp_path, watch, max_steps=5, max_time={"hours": 1})
    again.fit(tiny.module(), datamodule=tiny.data(shards), ckpt_path=tmp_path / "half.ckpt")
    assert 0.5 <= watch.clock[0] < 0.6


def test_a_run_without_an_end_is_refused(shards, tmp_path):
    with pytest.raises(ConfigError, match="max_time"):
        watched(shards, tmp_path, max_steps=-1, max_epochs=-1)
