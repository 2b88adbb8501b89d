"""Ctrl-C, SIGTERM and SLURM's warning signal: save and stop all ranks after the same step."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import threading
import time
from typing import Any, Final, final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipkit.distributed.delayed_max import DelayedMax
from clipkit.errors import ConfigError
from clipkit.training.callbacks.save_checkpoint import SaveCheckpoint
from clipkit.training.lightning_compat import (
    callbacks_of,
    disable_signal_handling,
    disable_sigterm_broadcast,
    is_accumulating,
    set_original_handlers,
)

_LOG: Final = logging.getLogger(__name__)
_CONTINUE, _INTERRUPT, _STOP, _REQUEUE = range(4)
_PATIENCE_SECONDS: Final = 1.0
"""A Ctrl-C within this time belongs to the previous one: keys bounce, launchers repeat it."""
_STOPPING: Final = b"\nclipkit: stopping after this step; press Ctrl-C again to stop at once\n"


@final
class StopOnSignal(Callback):
    """Saves a checkpoint on a signal, after the current step, and stops all ranks together.

    ``clipkit fit`` always has this callback. SIGTERM (``kill``, ``scancel``, Kubernetes, torchrun)
    ends the run, and so does Ctrl-C (a second one, at least a second later, ends it at once). The
    signal that SLURM sends before the end of a job (``#SBATCH --signal=USR1@300``) also requeues
    the job. One rank that receives a signal is enough: the ranks exchange it in the background of a
    step, and stop at the next one.

    Lightning saves inside the signal's handler, at a different point of the step on each rank, and
    broadcasts on the device at every step; both are replaced.

    Args:
        requeue_signal: Name of the signal that requeues the job.

    Raises:
        ConfigError: If there is no such signal.

    Examples:
        >>> trainer = Trainer(callbacks=[SaveCheckpoint(), StopOnSignal()])
    """

    def __init__(self, requeue_signal: str = "SIGUSR1") -> None:
        if requeue_signal not in signal.Signals.__members__:
            raise ConfigError(
                f"StopOnSignal.requeue_signal: expected the name of a signal such as SIGUSR1, "
                f"got {requeue_signal!r}"
            )
        self._meanings = {
            signal.SIGINT: _INTERRUPT,
            signal.SIGTERM: _STOP,
            signal.Signals[requeue_signal]: _REQUEUE,
        }
        self._wish = _CONTINUE
        self._interrupted_at: float | None = None
        self._gives_up = False
        self._process = os.getpid()
        self._speaks = True
        self._between_steps = True
        self._flag: DelayedMax | None = None
        self._previous: dict[Any, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Install the handlers before Lightning does, so that no early signal is lost."""
        if stage != "fit":
            return
        disable_signal_handling(trainer)
        self._process, self._speaks = os.getpid(), trainer.is_global_zero
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Install the handlers again: Lightning has replaced the one of SIGTERM."""
        self._flag = DelayedMax()
        self._listen()
        disable_sigterm_broadcast(trainer)

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Stop before a batch, with which a resumed run starts.

        Raises:
            SIGTERMException: On all ranks, after one of them received a signal.
            KeyboardInterrupt: The same after Ctrl-C.
        """
        assert self._flag is not None
        agreed = self._flag.all_reduce(self._wish) if self._between_steps else _CONTINUE
        if agreed == _CONTINUE:
            return
        for saver in callbacks_of(trainer, SaveCheckpoint):
            saver.save_interrupted(trainer)
        if trainer.is_global_zero:
            _LOG.warning("received a signal: stopping after step %d", trainer.global_step)
            if agreed == _REQUEUE:
                requeue()
        if agreed == _INTERRUPT:
            raise KeyboardInterrupt
        raise SIGTERMException

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Do not stop inside a window of accumulated gradients, which would be lost."""
        self._between_steps = not is_accumulating(trainer)

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        """Restore the previous handlers."""
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._previous.items():
                # After Ctrl-C, Lightning ignores further ones until its end, and then restores the
                # handler: a second one must not interrupt a save of other callbacks.
                if signal.getsignal(number) == self._hear:
                    signal.signal(number, handler)
        # At its end Lightning restores the handlers that were set at its start: these.
        set_original_handlers(trainer, self._previous)
        self._previous.clear()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the previous handlers."""
        self.on_exception(trainer)

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._meanings:
            if number == signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started by nohup or in the background: ignore a terminal's Ctrl-C
            previous = signal.signal(number, self._hear)
            self._previous.setdefault(number, previous)

    def _hear(self, number: int, frame: Any) -> None:
        """Only record the signal: the main thread may be inside a collective.

        Raises:
            KeyboardInterrupt: At the second Ctrl-C, once.
        """
        if os.getpid() != self._process:
            return  # a loader worker, which the run needs until the end of the step
        if number == signal.SIGINT:
            self._hear_interrupt()
        self._wish = max(self._wish, self._meanings[signal.Signals(number)])

    def _hear_interrupt(self) -> None:
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
            if self._speaks:
                os.write(2, _STOPPING)  # print is not safe in a signal handler
        elif now - self._interrupted_at >= _PATIENCE_SECONDS and not self._gives_up:
            self._gives_up = True
            raise KeyboardInterrupt


def requeue() -> None:
    """Requeue this SLURM job; log an error if there is none or SLURM refuses."""
    job = os.environ.get("SLURM_JOB_ID")
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None:
        _LOG.warning("requeue: SLURM_JOB_ID is not set, so there is no job to requeue")
        return
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        _LOG.error("requeue: scontrol did not run: %s", error)
        return
    if done.returncode:
        _LOG.error("requeue: scontrol ended with %d: %s", done.returncode, done.stderr.strip())
    else:
        _LOG.warning("requeue: job %s is in the queue again", job)
