"""Save checkpoints by steps and minutes, atomically, at optimizer steps only."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from typing import Any, Final, Literal, final

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor

from clipkit.distributed.delayed_max import DelayedMax
from clipkit.errors import CheckpointError, ConfigError
from clipkit.training.callbacks.zero_shot_evaluation import resolve_monitor
from clipkit.training.checkpoints import files
from clipkit.training.checkpoints.best import BestValue
from clipkit.training.checkpoints.io import use_atomic_checkpoints
from clipkit.training.checkpoints.newest import complete_saves, newest_complete
from clipkit.training.checkpoints.saves import Saves, check_background, no_saves
from clipkit.training.checkpoints.uploads import tell_loggers, warn_of_uploads
from clipkit.training.lightning_compat import callbacks_of, is_accumulating
from clipkit.training.strategies.fsdp import ShardedStrategy
from clipkit.training.strategies.writer import checkpoint_writer

_LOG: Final = logging.getLogger(__name__)
_RETRY_SECONDS: Final = 60.0


@final
class SaveCheckpoint(Checkpoint):
    """Writes ``last.ckpt``, and optionally the best checkpoint and some of every N steps.

    ``last.ckpt`` is written when ``every_n_steps`` or ``every_n_minutes`` is reached, at the end
    of the fit, and when the run is interrupted. It is replaced atomically: a run that is killed at
    any moment leaves the previous or the new one, complete. A full disk does not end the run: the
    previous checkpoint stays, the error is logged, and the write is retried every minute (without
    ``every_n_minutes``, at the next save).

    Args:
        folder: Path, or URL of fsspec (``s3://...``); None for the run's folder
            (``trainer.default_root_dir``).
        every_n_steps: Number of optimizer steps between two checkpoints.
        every_n_minutes: Minutes between two checkpoints. The first rank whose clock reaches the
            interval triggers the write on all ranks.
        keep_every_n_steps: Number of steps between checkpoints that stay, as ``step=N.ckpt``.
        monitor: A logged validation metric, or the name of an evaluator of ``ZeroShotEvaluation``
            for its primary metric; the checkpoint of the best value stays as ``best.ckpt``.
        mode: Whether the greatest ("max") or the smallest ("min") value of ``monitor`` is best;
            None for the direction that the evaluator declares, and "max" for other metrics.
        background: Whether training continues while a checkpoint is written, from a copy in host
            memory (pinned for a GPU) of its size. The next save waits for it, and so do the end of
            the fit, an interruption, and ``StepGuard`` before it restores weights. Kept copies get
            their names when it is complete.

    Loggers are told of each checkpoint, so that ``WandbLogger(log_model=True)`` uploads the last
    and the best one. The attributes that Lightning's ``ModelCheckpoint`` has for them are here too.

    Attributes:
        held: Whether writes are postponed: ``StepGuard`` needs the checkpoint from before
            consecutive bad steps.
        last_model_path: Path or URL of ``last.ckpt``; empty before the first write.
        best_model_path: Path or URL of ``best.ckpt``; empty before there is one.
        best_model_score: Value of ``monitor`` in ``best.ckpt``, a scalar; None before there is one.
        current_score: Latest value of ``monitor``, a scalar; None before the first validation.
        monitored_metric: Key of the metric that ``monitor`` stands for; empty before the fit.
        save_top_k: 1: loggers upload at the end of the fit, unless they are told to upload all.

    Raises:
        ConfigError: If a number is not positive, or the strategy cannot write to the folder.
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
        background: bool = False,
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
        self.background = background
        self.held = False
        self.last_model_path = ""
        self.best_model_path = ""
        self.best_model_score: Tensor | None = None
        self.current_score: Tensor | None = None
        self.save_top_k = 1
        self.monitored_metric = ""
        self._best = BestValue()
        self._sign = 1
        self._first_step = 0
        self._consistent = False
        self._saved_time = time.monotonic()
        self._saves = no_saves()
        self._clock: DelayedMax | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Make checkpoints atomic, and refuse a folder where that is not possible."""
        if self.monitor is not None:
            # refuses an unknown monitor before step 1
            self.monitored_metric, _ = resolve_monitor(trainer, self.monitor)
        use_atomic_checkpoints(trainer)
        if self.background:
            check_background(trainer)
        if stage == "fit":
            is_sharded = isinstance(trainer.strategy, ShardedStrategy)
            warn_of_uploads(trainer, self.folder_of(trainer), is_sharded)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; weights and cursor are consistent now."""
        if trainer.is_global_zero:
            folder, step = self.folder_of(trainer), trainer.global_step
            complete_saves(folder, step, self._names_of(step), str(trainer.ckpt_path))
        self._clock = DelayedMax()
        writer = checkpoint_writer(trainer, self.background)
        self._saves = Saves(self.folder_of(trainer), writer, self._complete, self._lose)
        self._first_step = trainer.global_step
        self._saved_time = time.monotonic()
        self._consistent = True
        self._find_best(trainer)

    def on_before_optimizer_step(self, *_: Any) -> None:
        """Mark that the weights are ahead of the cursor until the end of the batch."""
        self._consistent = False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save if it is due, but not inside a window, whose gradients would be lost."""
        if is_accumulating(trainer):
            return
        self._consistent = True
        if self._saves.has_failed(trainer):
            self._retry_soon()
        step = trainer.global_step
        keep = self.keep_every_n_steps is not None and step % self.keep_every_n_steps == 0
        by_steps = self.every_n_steps is not None and step % self.every_n_steps == 0
        by_minutes = self._minutes_are_over()
        if (keep or by_steps or by_minutes) and not self.held:
            self.save(trainer, (f"step={step}.ckpt",) if keep else ())

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the checkpoint if the monitored metric is the best so far."""
        if self.monitor is None or trainer.sanity_checking or trainer.state.fn != "fit":
            return
        key, sign = self._monitored(trainer, self.monitor)
        if key not in trainer.callback_metrics:
            known = ", ".join(sorted(map(str, trainer.callback_metrics))) or "none"
            raise ConfigError(
                f"SaveCheckpoint.monitor: no metric {key!r} was logged; logged: {known}"
            )
        value = float(trainer.callback_metrics[key])
        self.current_score = torch.tensor(value)
        if self._best.may_be_exceeded_by(sign * value):
            self.settle(trainer)  # the previous best one, with its own score
        if sign * value > self._best.score:
            self._best.begin(sign * value, trainer.global_step)
            self._sign = sign
            self.save(trainer, (files.BEST,))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last state of a completed fit."""
        if not (self.save(trainer) and self._saves.settle(trainer)):
            raise CheckpointError(
                f"{self._last(trainer)}: the state after step {trainer.global_step} could not be "
                f"written{self._saves.failure}; the previous checkpoint is still there: free some "
                f"space and continue from it with --ckpt_path last"
            )

    def save(self, trainer: Trainer, names: Sequence[str] = ()) -> bool:
        """Write ``last.ckpt`` unless it contains this step already; call it on every rank.

        Args:
            trainer: The trainer of the run.
            names: Further names of the checkpoint, which is written again for them: the state of
                this callback has changed since.

        Returns:
            Whether it was written, or is being written in the background, the same on every rank;
            errors are logged.
        """
        is_saved = self._saves.save(trainer, names)
        if self._clock is not None:
            self._clock.wait()  # a request from before this write is obsolete
        self._saved_time = time.monotonic()
        if not is_saved:
            self._retry_soon()
        return is_saved

    def settle(self, trainer: Trainer) -> None:
        """Wait until the last save has ended on all ranks; call it on every rank."""
        self._saves.settle(trainer)

    def save_interrupted(self, trainer: Trainer) -> None:
        """Save a run that ends early, on every rank, unless it made no step.

        It must not replace a checkpoint of a later step, as when a run starts from an earlier one.
        """
        if trainer.global_step > self._first_step:
            self.save(trainer)
            self.settle(trainer)

    def folder_of(self, trainer: Trainer) -> str:
        """Return the folder of checkpoints in a run of ``trainer``."""
        return self.folder or str(trainer.default_root_dir)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Save an interrupted run if all ranks can take part.

        Weights and cursor are those before the failing batch. Effects of its forward pass (running
        statistics of batch norms) stay: minutes of lost work would be worse. Ctrl-C interrupts
        ranks at different points; ``StopOnSignal`` makes them save together.
        """
        everyone = isinstance(exception, SIGTERMException)
        if (everyone or trainer.world_size == 1) and trainer.training and self._consistent:
            self.save_interrupted(trainer)
        self._saves.report(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Wait for the last write, also if another callback failed."""
        self._saves.report(trainer)

    def state_dict(self) -> dict[str, Any]:
        """Return the best value so far, so that a resumed run keeps its best checkpoint."""
        return self._best.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best value."""
        self._best.load_state_dict(state_dict)

    def _names_of(self, step: int) -> list[str]:
        """Return the further names that the checkpoint of a step has."""
        names = [files.BEST] if self.monitor is not None and step == self._best.step else []
        if self.keep_every_n_steps and step and step % self.keep_every_n_steps == 0:
            names.append(f"step={step}.ckpt")
        return names

    def _find_best(self, trainer: Trainer) -> None:
        """Find the best checkpoint of the earlier launches of this run."""
        path = files.join(self.folder_of(trainer), files.BEST)
        if self.monitor is not None and math.isfinite(self._best.score) and files.exists(path):
            _, sign = self._monitored(trainer, self.monitor)
            self.best_model_path = path
            self.best_model_score = torch.tensor(sign * self._best.score)

    def _monitored(self, trainer: Trainer, monitor: str) -> tuple[str, int]:
        """Return the key of the monitored metric, and 1 if greater values are better, else -1."""
        key, greater_is_better = resolve_monitor(trainer, monitor)
        is_max = greater_is_better if self.mode is None else self.mode == "max"
        return key, 1 if is_max else -1

    def _minutes_are_over(self) -> bool:
        if self.every_n_minutes is None or self._clock is None:
            return False
        over = time.monotonic() - self._saved_time >= 60 * self.every_n_minutes
        return bool(self._clock.all_reduce(over))

    def _last(self, trainer: Trainer) -> str:
        return files.join(self.folder_of(trainer), files.LAST)

    def _retry_soon(self) -> None:
        interval = 60 * (self.every_n_minutes or 0)
        self._saved_time = time.monotonic() - interval + _RETRY_SECONDS

    def _complete(self, trainer: Trainer, names: Sequence[str]) -> None:
        """Take over the paths of a complete save, and let loggers upload it."""
        self.last_model_path = self._last(trainer)
        if files.BEST in names:
            self.best_model_path = files.join(self.folder_of(trainer), files.BEST)
            self.best_model_score = torch.tensor(self._best.score * self._sign)
        tell_loggers(trainer, self)

    def _lose(self, names: Sequence[str]) -> None:
        """Forget the best value if its checkpoint was not written."""
        if files.BEST in names:
            self._best.lose()


def checkpoint_folders(trainer: Trainer) -> list[str]:
    """Return the folders or URLs where a run writes its checkpoints, then its own folder."""
    savers = callbacks_of(trainer, SaveCheckpoint)
    folders = [saver.folder_of(trainer) for saver in savers]
    return list(dict.fromkeys([*folders, str(trainer.default_root_dir)]))


def newest_checkpoint(trainer: Trainer) -> str | None:
    """Return the newest complete checkpoint of a run on every rank; see ``newest_complete``."""
    found = map(newest_complete, checkpoint_folders(trainer))
    return next((path for path in found if path is not None), None)
