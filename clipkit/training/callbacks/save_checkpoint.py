"""Checkpoints by steps and by minutes, atomic, at optimizer steps only."""

from __future__ import annotations

import logging
import math
import time
from typing import Any, Final, Literal, final

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipkit.distributed.delayed_max import DelayedMax
from clipkit.errors import CheckpointError, ConfigError
from clipkit.training.callbacks.zero_shot_evaluation import resolve_monitor
from clipkit.training.checkpoints import files
from clipkit.training.checkpoints.io import use_atomic_checkpoints
from clipkit.training.lightning_compat import callbacks_of, is_accumulating
from clipkit.training.strategies.fsdp import ShardedStrategy

_LOG: Final = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 60.0


@final
class SaveCheckpoint(Checkpoint):
    """Keeps ``last.ckpt`` fresh, and on request the best and those of every so many steps.

    ``last.ckpt`` is written when ``every_n_steps`` or ``every_n_minutes`` is reached, at the end
    of the fit, and when the run is interrupted. It is replaced in one step: killed at any moment,
    a run leaves the former one or the new one, whole. A disk that is full costs no run: the former
    checkpoint stays, the failure is logged, and the write is tried again every minute.

    Args:
        folder: Where to write, a path or a URL that fsspec knows (``s3://...``); the run's folder
            (``trainer.default_root_dir``) when None.
        every_n_steps: Optimizer steps between two writes.
        every_n_minutes: Minutes between two writes, by the clock of whoever is first.
        keep_every_n_steps: Steps whose checkpoint stays as ``step=N.ckpt``.
        monitor: A logged validation metric, or the name of an evaluator of ``ZeroShotEvaluation``
            for its primary metric; the checkpoint of the best value is kept as ``best.ckpt``.
        mode: Whether the greatest ("max") or the smallest ("min") value of ``monitor`` is best;
            None for the direction that the evaluator declares, and "max" for other metrics.

    Attributes:
        held: Whether writes that are due are put off: ``StepGuard`` keeps the checkpoint of before
            a row of bad steps, to go back to.

    Raises:
        ConfigError: If a number is not positive, or the folder does not suit the strategy.
        CheckpointError: At the end of the fit, if its last state could not be written.

    Examples:
        >>> callback = SaveCheckpoint(every_n_minutes=10, monitor="val/loss", mode="min")
    """

    def __init__(
        self,
        folder: str | None = None,
        every_n_steps: int | None = None,
        every_n_minutes: float | None = 10.0,
        keep_every_n_steps: int | None = None,
        monitor: str | None = None,
        mode: Literal["min", "max"] | None = None,
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
        self.held = False
        self._best = -math.inf
        self._saved_step = -1
        self._first_step = 0
        self._consistent = False
        self._saved_time = time.monotonic()
        self._failure = ""
        self._clock: DelayedMax | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Have checkpoints replaced in one step, and refuse a folder where that cannot be."""
        if self.monitor is not None:
            resolve_monitor(trainer, self.monitor)  # refuses what it cannot resolve, before step 1
        use_atomic_checkpoints(trainer)
        if isinstance(trainer.strategy, ShardedStrategy):
            trainer.strategy.check_folder(self.folder_of(trainer))

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; weights and cursor agree now."""
        if trainer.is_global_zero:
            files.remove_partial_files(self.folder_of(trainer))
        self._clock = DelayedMax()
        self._first_step = trainer.global_step
        self._saved_time = time.monotonic()
        self._consistent = True

    def on_before_optimizer_step(self, *_: Any) -> None:
        """From here to the end of the batch the weights are ahead of the cursor."""
        self._consistent = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save where it is due; never inside a window, whose gradients would be lost."""
        if is_accumulating(trainer):
            return
        self._consistent = True
        step = trainer.global_step
        keep = self.keep_every_n_steps is not None and step % self.keep_every_n_steps == 0
        by_steps = self.every_n_steps is not None and step % self.every_n_steps == 0
        by_minutes = self._minutes_are_over()
        due = (keep or by_steps or by_minutes) and not self.held
        if due and self.save(trainer) and keep:
            self._copy_last(trainer, f"step={step}.ckpt")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the checkpoint where the monitored metric is the best so far."""
        if self.monitor is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        key, greater_is_better = resolve_monitor(trainer, self.monitor)
        if key not in trainer.callback_metrics:
            known = ", ".join(sorted(map(str, trainer.callback_metrics))) or "none"
            raise ConfigError(
                f"SaveCheckpoint.monitor: no metric {key!r} was logged; logged: {known}"
            )
        value = float(trainer.callback_metrics[key])
        is_max = greater_is_better if self.mode is None else self.mode == "max"
        score = value if is_max else -value
        if score > self._best:
            self._best = score
            if self.save(trainer):
                self._copy_last(trainer, "best.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the last state of a finished fit."""
        if not self.save(trainer):
            raise CheckpointError(
                f"{self._last(trainer)}: the state after step {trainer.global_step} could not be "
                f"written{self._failure}; the former checkpoint is still there: make room and go "
                f"on from it with --ckpt_path last"
            )

    def save(self, trainer: Trainer) -> bool:
        """Write ``last.ckpt`` unless it holds this step already; to be called on every rank.

        Returns:
            Whether it is written, the same on every rank; what went wrong is in the log.
        """
        if trainer.global_step == self._saved_step:
            return True
        self._failure = _written(trainer, self._last(trainer))
        failed = bool(trainer.strategy.broadcast(bool(self._failure)))
        if self._clock is not None:
            self._clock.wait()  # a request from before this write is obsolete
        self._saved_time = time.monotonic()
        if failed:
            self._saved_time -= 60 * (self.every_n_minutes or 0) - _RETRY_SECONDS
        else:
            self._saved_step = trainer.global_step
        return not failed

    def save_interrupted(self, trainer: Trainer) -> None:
        """Save a run that ends early, on every rank; a run that took no step has nothing new.

        It must not replace a checkpoint that went further, as when a run starts from an earlier
        one of its own.
        """
        if trainer.global_step > self._first_step:
            self.save(trainer)

    def folder_of(self, trainer: Trainer) -> str:
        """Where this callback writes in a run of ``trainer``."""
        return self.folder or str(trainer.default_root_dir)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save an interrupted run where all ranks can take part in it.

        Weights and cursor are those before the failing batch. What its forward pass left behind
        (running statistics of batch norms) stays, which is better than minutes of lost work. Ctrl-C
        finds several ranks in different places; ``StopOnSignal`` has them save together.
        """
        everyone = isinstance(exception, SIGTERMException)
        if (everyone or trainer.world_size == 1) and trainer.training and self._consistent:
            self.save_interrupted(trainer)

    def state_dict(self) -> dict[str, Any]:
        """The best value so far, so that a resumed run does not lose its best checkpoint."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best value."""
        self._best = state_dict["best"]

    def _minutes_are_over(self) -> bool:
        if self.every_n_minutes is None or self._clock is None:
            return False
        over = time.monotonic() - self._saved_time >= 60 * self.every_n_minutes
        return bool(self._clock.all_reduce(over))

    def _last(self, trainer: Trainer) -> str:
        return files.join(self.folder_of(trainer), files.LAST)

    def _copy_last(self, trainer: Trainer, name: str) -> None:
        if trainer.is_global_zero:
            last = self._last(trainer)
            files.duplicate(last, files.join(self.folder_of(trainer), name))


def checkpoint_folders(trainer: Trainer) -> list[str]:
    """Return the folders or URLs where a run writes its checkpoints, then its own folder."""
    savers = callbacks_of(trainer, SaveCheckpoint)
    folders = [saver.folder_of(trainer) for saver in savers]
    return list(dict.fromkeys([*folders, str(trainer.default_root_dir)]))


def newest_checkpoint(trainer: Trainer) -> str | None:
    """The newest whole checkpoint where a run writes its own; see ``newest_complete``.

    Returns:
        Its path or URL; None before a first one was written.

    Raises:
        CheckpointError: If there are only half ones.
    """
    found = map(files.newest_complete, checkpoint_folders(trainer))
    return next((path for path in found if path is not None), None)


def _written(trainer: Trainer, path: str) -> str:
    """Write a checkpoint; why the disk or the store refused, or nothing.

    A rank that cannot write meets the others at the barrier that ``save_checkpoint`` ends with.
    """
    try:
        trainer.save_checkpoint(path, weights_only=False)
    except OSError as error:
        trainer.strategy.barrier("Trainer.save_checkpoint")
        reason = error.strerror or str(error)
        _LOG.error("%s: not written: %s; the run goes on with the former one", path, reason)
        return f" ({reason})"
    return ""
