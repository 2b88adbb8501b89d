"""How fast a run is, and whether it waits for its data."""

from __future__ import annotations

import time
from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.types import Batch


@final
class Throughput(Callback):
    """Logs samples per second of all ranks and the share of time spent waiting for data.

    Both are averages since they were last logged; validation does not count.
    """

    def __init__(self) -> None:
        self._waited = 0.0
        self._worked = 0.0
        self._samples = 0
        self._mark: float | None = None

    def on_train_batch_start(
        self,
        trainer: Trainer,  # noqa: ARG002
        pl_module: LightningModule,  # noqa: ARG002
        batch: Batch,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """The wait for this batch is over."""
        now = time.perf_counter()
        if self._mark is not None:
            self._waited += now - self._mark
        self._mark = now

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ARG002
        batch: Batch,
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """The step is over; the wait for the next batch begins."""
        now = time.perf_counter()
        assert self._mark is not None
        self._worked += now - self._mark
        self._samples += len(batch) * trainer.world_size
        self._mark = now
        stepped = not trainer.fit_loop._should_accumulate()
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if stepped and every and trainer.global_step % every == 0:
            self._log(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Leave out the time of validation: only what follows is waiting."""
        self._mark = time.perf_counter()

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Count the wait for the first batch, in which workers start, too."""
        self._mark = time.perf_counter()

    def _log(self, pl_module: LightningModule) -> None:
        total = self._waited + self._worked
        pl_module.log_dict(
            {
                "throughput/samples_per_second": self._samples / total,
                "throughput/data_wait_share": self._waited / total,
            },
            batch_size=1,
        )
        self._waited = self._worked = 0.0
        self._samples = 0
