"""Checkpoints by steps and by minutes, atomic, at optimizer steps only."""

from __future__ import annotations

import math
import os
import shutil
import time
from pathlib import Path
from typing import Any, Literal, final

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipkit.errors import ConfigError
from clipkit.training.atomic_io import write_atomically


@final
class SaveCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` fresh, and on request the best and those of every so many steps.

    ``last.ckpt`` is written when ``every_n_steps`` or ``every_n_minutes`` is reached, at the end
    of the fit, and when the run is interrupted. It is replaced in one step: killed at any moment,
    a run leaves the former one or the new one, whole.

    Args:
        folder: Where to write; the run's folder (``trainer.default_root_dir``) when None.
        every_n_steps: Optimizer steps between two writes.
        every_n_minutes: Minutes between two writes, by the clock of rank 0.
        keep_every_n_steps: Steps whose checkpoint stays as ``step=N.ckpt``.
        monitor: A logged validation metric; its best checkpoint stays as ``best.ckpt``.
        mode: Whether the greatest or the smallest value of ``monitor`` is best.

    Raises:
        ConfigError: If a number is not positive.

    Example:
        >>> SaveCheckpoint(every_n_minutes=10, monitor="val/loss", mode="min")
    """

    def __init__(
        self,
        folder: str | None = None,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = 10.0,
        keep_every_n_steps: int | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] = "max",
    ) -> None:
        for name, value in (
            ("every_n_steps", every_n_steps),
            ("every_n_minutes", every_n_minutes),
            ("keep_every_n_steps", keep_every_n_steps),
        ):
            if value is not None and value <= 0:
                raise ConfigError(f"SaveCheckpoint.{name}: expected more than 0, got {value}")
        self.folder = folder
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self.keep_every_n_steps = keep_every_n_steps
        self.monitor = monitor
        self.mode = mode
        self._best = -math.inf
        self._saved_step = -1
        self._consistent = False
        self._saved_time = time.monotonic()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Have checkpoints replaced in one step."""
        write_atomically(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Start the clock; weights and cursor agree now."""
        self._saved_time = time.monotonic()
        self._consistent = True

    def on_before_optimizer_step(self, *_: Any) -> None:
        """From here to the end of the batch the weights are ahead of the cursor."""
        self._consistent = False

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Save where it is due; never inside a window, whose gradients would be lost."""
        if trainer.fit_loop._should_accumulate():
            return
        self._consistent = True
        step = trainer.global_step
        keep = self.keep_every_n_steps is not None and step % self.keep_every_n_steps == 0
        by_steps = self.every_n_steps is not None and step % self.every_n_steps == 0
        if keep or by_steps or self._minutes_are_over(trainer):
            self._save_last(trainer)
        if keep:
            self._copy_last(trainer, f"step={step}.ckpt")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Keep the checkpoint where the monitored metric is the best so far."""
        if self.monitor is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.monitor not in trainer.callback_metrics:
            known = ", ".join(sorted(map(str, trainer.callback_metrics))) or "none"
            raise ConfigError(
                f"SaveCheckpoint.monitor: no metric {self.monitor!r} was logged; logged: {known}"
            )
        value = float(trainer.callback_metrics[self.monitor])
        score = value if self.mode == "max" else -value
        if score > self._best:
            self._best = score
            self._save_last(trainer)
            self._copy_last(trainer, "best.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Leave the last state of a finished fit."""
        self._save_last(trainer)

    def on_exception(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        exception: BaseException,
    ) -> None:
        """Save an interrupted run where all ranks can take part in it.

        Weights and cursor are those before the failing batch. What its forward pass left behind
        (running statistics of batch norms) stays, which is better than minutes of lost work.
        """
        everyone = isinstance(exception, (KeyboardInterrupt, SIGTERMException))
        if (everyone or trainer.world_size == 1) and trainer.training and self._consistent:
            self._save_last(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, so that a resumed run does not lose its best checkpoint."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best value."""
        self._best = state_dict["best"]

    def _minutes_are_over(self, trainer: Trainer) -> bool:
        if self.every_n_minutes is None:
            return False
        over = time.monotonic() - self._saved_time >= 60 * self.every_n_minutes
        return bool(trainer.strategy.broadcast(over)) if trainer.world_size > 1 else over

    def _folder(self, trainer: Trainer) -> Path:
        return Path(self.folder or trainer.default_root_dir)

    def _save_last(self, trainer: Trainer) -> None:
        if trainer.global_step == self._saved_step:
            return
        trainer.save_checkpoint(self._folder(trainer) / "last.ckpt", weights_only=False)
        self._saved_step = trainer.global_step
        self._saved_time = time.monotonic()

    def _copy_last(self, trainer: Trainer, name: str) -> None:
        """Give ``last.ckpt`` a second name, which stays when the first moves on."""
        if not trainer.is_global_zero:
            return
        source, target = self._folder(trainer) / "last.ckpt", self._folder(trainer) / name
        beside = target.with_name(f".{name}.{os.getpid()}.part")
        try:
            os.link(source, beside)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, beside)
        beside.replace(target)
