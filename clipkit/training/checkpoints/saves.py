"""The saves of a run: each one complete, under one or several names, or not there."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, final

from lightning.pytorch import Trainer

from clipkit.errors import ConfigError
from clipkit.training.checkpoints import files
from clipkit.training.checkpoints.io import AtomicCheckpointIO
from clipkit.training.checkpoints.writers import CheckpointWriter, WriteAtOnce, reason_of

_LOG: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Save:
    """A save that was started: its step, its further names, and the seconds training waited."""

    step: int
    names: Sequence[str]
    stall_seconds: float


@final
class Saves:
    """Writes ``last.ckpt`` of a run; every rank has one and calls it alike.

    A save that is written in the background has ended for all ranks after ``settle``; the next save
    begins with that.

    Args:
        folder: Path or URL of the checkpoints.
        writer: Writer that decides when they are written.
        completed: Function that is called on every rank with the further names of a save when it
            is complete, by the thread that trains.
        lost: The same for a save that failed on any rank.

    Attributes:
        saved_step: Step of the last save, which may still be written; -1 for none.
        failure: Reason of the last failure, in parentheses; empty if there is none.
    """

    def __init__(
        self,
        folder: str,
        writer: CheckpointWriter,
        completed: Callable[[Trainer, Sequence[str]], None],
        lost: Callable[[Sequence[str]], None],
    ) -> None:
        self.saved_step = -1
        self.failure = ""
        self._folder = folder
        self._last = files.join(folder, files.LAST)
        self._writer = writer
        self._completed = completed
        self._lost = lost
        self._pending: _Save | None = None
        self._is_reported = True

    def save(self, trainer: Trainer, names: Sequence[str] = ()) -> bool:
        """Start the save of this step unless it is the last one; call it on every rank.

        Args:
            trainer: The trainer of the run.
            names: Further names of the checkpoint in the folder; for them the step is saved again.

        Returns:
            Whether it was written, or its content was taken over; the same on every rank.
        """
        begin = time.monotonic()
        self.settle(trainer)
        if trainer.global_step == self.saved_step and not names:
            return True
        self.failure = self._give(trainer)
        if trainer.strategy.broadcast(bool(self.failure)):
            self._lost(names)
            return False
        self._writer.start(lambda: self._add_names(names if trainer.is_global_zero else ()))
        self.saved_step = trainer.global_step
        self._pending = _Save(self.saved_step, names, time.monotonic() - begin)
        self._is_reported = False
        return self._writer.is_background or self.settle(trainer)

    def settle(self, trainer: Trainer) -> bool:
        """Wait until the last save has ended on all ranks, and return whether it is complete."""
        if self._pending is None:
            return True
        self.report(trainer)
        save, self._pending = self._pending, None
        failed = bool(trainer.strategy.broadcast(bool(self.failure)))
        if failed:
            self.saved_step = -1
            self._lost(save.names)
        return not failed

    def report(self, trainer: Trainer) -> None:
        """Wait for this rank's part of the last save, and log what became of it."""
        if self._is_reported or self._pending is None:
            return
        save, written = self._pending, self._writer.wait()
        self._is_reported = True  # not before: Ctrl-C may interrupt the wait
        if written.problem:
            self.failure = f" ({written.problem})"
            _log_failure(self._last, written.problem)
            return
        self._completed(trainer, save.names)
        if trainer.is_global_zero:
            _LOG.info(
                "%s: step %d, %.1f MB, training waited %.2f s, written in %.2f s",
                self._last, save.step, written.num_bytes / 1e6, save.stall_seconds, written.seconds,
            )  # fmt: skip
            figures = {
                "checkpoint/bytes": float(written.num_bytes),
                "checkpoint/stall_seconds": save.stall_seconds,
                "checkpoint/write_seconds": written.seconds,
            }
            step = max(0, trainer.global_step - 1)  # Lightning's number of the step that ended
            for logger in trainer.loggers:
                logger.log_metrics(figures, step=step)

    def has_failed(self, trainer: Trainer) -> bool:
        """Report the last save if it has ended on this rank, and return whether it just failed."""
        if self._is_reported or self._writer.is_busy:
            return False
        self.report(trainer)
        return bool(self.failure)

    def _give(self, trainer: Trainer) -> str:
        """Give the writer the state of this step, and return the error of disk or store, if any.

        A rank that cannot write meets the others at the barrier that ``save_checkpoint`` ends with.
        """
        target = trainer.strategy.checkpoint_io
        own = target if isinstance(target, AtomicCheckpointIO) else AtomicCheckpointIO()
        usual, own.writer = own.writer, self._writer  # of other saves of this trainer
        try:
            trainer.save_checkpoint(self._last, weights_only=False)
        except OSError as error:
            trainer.strategy.barrier("Trainer.save_checkpoint")
            _log_failure(self._last, reason_of(error))
            return f" ({reason_of(error)})"
        finally:
            own.writer = usual
        return ""

    def _add_names(self, names: Sequence[str]) -> None:
        for name in names:
            files.duplicate(self._last, files.join(self._folder, name))


def check_background(trainer: Trainer) -> None:
    """Refuse a plugin that writes the checkpoints of a run instead of clipkit."""
    plugin = trainer.strategy.checkpoint_io
    if not isinstance(plugin, AtomicCheckpointIO):
        raise ConfigError(
            f"SaveCheckpoint.background: expected a run without a plugin for checkpoints, got "
            f"{type(plugin).__name__}; remove it, or set background: false"
        )


def no_saves() -> Saves:
    """Return saves that have not begun; a fit replaces them."""
    return Saves("", WriteAtOnce(), lambda *_: None, lambda _: None)


def _log_failure(path: str, reason: str) -> None:
    _LOG.error("%s: not written: %s; the run continues with the previous one", path, reason)
