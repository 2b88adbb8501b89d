"""Log the speed of a run, and the time that it waits for data."""

from __future__ import annotations

import time
from typing import Any, final

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
        self._clock = _Clock()
        self._samples = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the clock of the device."""
        self._clock = _DeviceClock() if pl_module.device.type == "cuda" else _Clock()

    def on_train_batch_start(self, *_: Any) -> None:
        """End the wait for this batch."""
        self._clock.begin_step()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
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


class _Clock:
    """Measures the duration of steps and of the waits between them."""

    def __init__(self) -> None:
        self._mark: Any = None
        self._waits: list[tuple[Any, Any]] = []
        self._steps: list[tuple[Any, Any]] = []

    def begin_wait(self) -> None:
        """Discard the time since the last step, and begin a wait."""
        self._mark = self._now()

    def begin_step(self) -> None:
        """End a wait, if one has begun."""
        self._end(self._waits)

    def end_step(self) -> None:
        """End a step and begin a wait."""
        self._end(self._steps)

    def take_seconds(self) -> tuple[float, float]:
        """Return the seconds of waits and of steps since the last call."""
        waited, worked = (
            sum(self._seconds(*span) for span in spans) for spans in (self._waits, self._steps)
        )
        self._waits, self._steps = [], []
        return waited, worked

    def _end(self, spans: list[tuple[Any, Any]]) -> None:
        now = self._now()
        if self._mark is not None:
            spans.append((self._mark, now))
        self._mark = now

    def _now(self) -> Any:
        return time.perf_counter()

    def _seconds(self, start: Any, end: Any) -> float:
        return float(end - start)


class _DeviceClock(_Clock):
    """Uses events in the GPU's queue; their times are read once per log."""

    def _now(self) -> torch.cuda.Event:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def _seconds(self, start: torch.cuda.Event, end: torch.cuda.Event) -> float:
        end.synchronize()
        return float(start.elapsed_time(end)) / 1000
