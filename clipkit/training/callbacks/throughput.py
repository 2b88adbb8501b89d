"""Log the speed of a run, and the time that it waits for data."""

from __future__ import annotations

import time
from typing import Any, Protocol, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.training.lightning_compat import is_accumulating, logs_at
from clipkit.types import Batch


@final
class Throughput(Callback):
    """Logs samples per second of all ranks and the share of time spent waiting for data.

    Both are averages since the last log, without validation. On a GPU both are measured by its
    clock: the CPU queues work in advance, so its waiting times are not those of the GPU. Waiting
    is then the time in which the GPU has no step to compute.
    """

    def __init__(self) -> None:
        self._clock: _Clock = _HostClock()
        self._samples = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the clock of the device."""
        on_gpu = pl_module.device.type == "cuda"
        self._clock = _DeviceClock() if on_gpu else _HostClock()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """End the wait for this batch."""
        self._clock.begin_step()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
    ) -> None:
        """End the step, and begin the wait for the next batch."""
        self._clock.end_step()
        self._samples += len(batch) * trainer.world_size
        if not is_accumulating(trainer) and logs_at(trainer, trainer.global_step):
            self._log(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exclude the time of validation."""
        self._clock.begin_wait()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Include the wait for the first batch, in which workers start."""
        self._clock.begin_wait()

    def _log(self, pl_module: LightningModule) -> None:
        waited, worked = self._clock.take_seconds()
        total = waited + worked
        pl_module.log_dict(
            {
                "throughput/samples_per_second": self._samples / total,
                "throughput/data_wait_share": waited / total,
            },
            batch_size=1,
        )
        self._samples = 0


class _Clock(Protocol):
    """Measures the duration of steps and of the waits between them."""

    def begin_wait(self) -> None:
        """Discard earlier times, and begin a wait."""

    def begin_step(self) -> None:
        """End a wait, if one has begun."""

    def end_step(self) -> None:
        """End a step and begin a wait."""

    def take_seconds(self) -> tuple[float, float]:
        """Return the seconds of waits and of steps since the last call."""


class _HostClock:
    def __init__(self) -> None:
        self._waited = self._worked = 0.0
        self._mark: float | None = None

    def begin_wait(self) -> None:
        self._mark = time.perf_counter()

    def begin_step(self) -> None:
        now = time.perf_counter()
        if self._mark is not None:
            self._waited += now - self._mark
        self._mark = now

    def end_step(self) -> None:
        now = time.perf_counter()
        assert self._mark is not None
        self._worked += now - self._mark
        self._mark = now

    def take_seconds(self) -> tuple[float, float]:
        seconds = self._waited, self._worked
        self._waited = self._worked = 0.0
        return seconds


class _DeviceClock:
    """Uses events in the GPU's queue; their times are read once per log."""

    def __init__(self) -> None:
        self._mark: torch.cuda.Event | None = None
        self._waits: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []
        self._steps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def begin_wait(self) -> None:
        self._mark = _event()

    def begin_step(self) -> None:
        now = _event()
        if self._mark is not None:
            self._waits.append((self._mark, now))
        self._mark = now

    def end_step(self) -> None:
        now = _event()
        assert self._mark is not None
        self._steps.append((self._mark, now))
        self._mark = now

    def take_seconds(self) -> tuple[float, float]:
        if self._steps:
            self._steps[-1][1].synchronize()
        waited, worked = (
            sum(start.elapsed_time(end) for start, end in pairs) / 1000
            for pairs in (self._waits, self._steps)
        )
        self._waits, self._steps = [], []
        return waited, worked


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
