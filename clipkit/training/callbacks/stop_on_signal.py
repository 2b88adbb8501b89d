"""Ctrl-C, SIGTERM and SLURM's warning: save, and stop where all ranks stand at the same step."""

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
_GO_ON, _INTERRUPT, _STOP, _REQUEUE = range(4)
_PATIENCE_SECONDS: Final = 1.0
"""A second Ctrl-C that comes sooner belongs to the first: keys bounce, launchers pass it on too."""
_STOPPING: Final = b"\nclipkit: stopping after this step; press Ctrl-C again to stop at once\n"


@final
class StopOnSignal(Callback):
    """Saves and ends a run that is told to go, between two steps and on all ranks together.

    ``clipkit fit`` always has this callback. SIGTERM (``kill``, ``scancel``, Kubernetes, torchrun)
    ends the run, and so does Ctrl-C (a second one, at least a second later, ends it at once). The
    signal that SLURM is asked to send ahead of a job's end (``#SBATCH --signal=USR1@300``) also
    puts the job back into the queue. It is enough that one rank gets a signal: the ranks tell each
    other in the background of a step, and stop at the next.

    Lightning's own way saves inside the signal's handler, wherever each rank happens to be, and
    asks rank 0 on the device at every step; both are replaced.

    Args:
        requeue_signal: Name of the signal that means "put the job back into the queue".

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
        self._wish = _GO_ON
        self._interrupted_at: float | None = None
        self._gives_up = False
        self._process = os.getpid()
        self._speaks = True
        self._between_steps = True
        self._flag: DelayedMax | None = None
        self._former: dict[Any, Any] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Take over before Lightning would; a signal that comes early is not lost."""
        if stage != "fit":
            return
        disable_signal_handling(trainer)
        self._process, self._speaks = os.getpid(), trainer.is_global_zero
        self._listen()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # noqa: ARG002
        """Take over again: Lightning has put a handler of its own for SIGTERM in front."""
        self._flag = DelayedMax()
        self._listen()
        disable_sigterm_broadcast(trainer)

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Stop before a batch: it has not been trained on, so a resumed run begins with it.

        Raises:
            SIGTERMException: On all ranks, once one was told to stop.
            KeyboardInterrupt: The same after Ctrl-C.
        """
        assert self._flag is not None
        agreed = self._flag.all_reduce(self._wish) if self._between_steps else _GO_ON
        if agreed == _GO_ON:
            return
        for saver in callbacks_of(trainer, SaveCheckpoint):
            saver.save_interrupted(trainer)
        if trainer.is_global_zero:
            _LOG.warning("told to stop: the run ends after step %d", trainer.global_step)
            if agreed == _REQUEUE:
                requeue()
        if agreed == _INTERRUPT:
            raise KeyboardInterrupt
        raise SIGTERMException

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,  # noqa: ARG002
        outputs: Any,  # noqa: ARG002
        batch: Any,  # noqa: ARG002
        batch_idx: int,  # noqa: ARG002
    ) -> None:
        """Inside a window of accumulated gradients a stop would lose them."""
        self._between_steps = not is_accumulating(trainer)

    def on_exception(self, trainer: Trainer, *_: Any) -> None:
        """Give the signals back."""
        self._stop_listening(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Give the signals back."""
        self._stop_listening(trainer)

    def _listen(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._meanings:
            if number == signal.SIGINT and signal.getsignal(number) == signal.SIG_IGN:
                continue  # started by nohup, or in the background: a terminal's Ctrl-C is not meant
            former = signal.signal(number, self._hear)
            self._former.setdefault(number, former)

    def _stop_listening(self, trainer: Trainer) -> None:
        if threading.current_thread() is threading.main_thread():
            for number, handler in self._former.items():
                # After Ctrl-C Lightning ignores another one until it has ended, and then gives back
                # the handler too: it must not break the save that other callbacks have begun.
                if signal.getsignal(number) == self._hear:
                    signal.signal(number, handler)
        # What Lightning puts back when it ends are the handlers that it found: ours.
        set_original_handlers(trainer, self._former)
        self._former.clear()

    def _hear(self, number: int, frame: Any) -> None:  # noqa: ARG002
        """Only take a note: the main thread may be anywhere, inside a collective too.

        Raises:
            KeyboardInterrupt: At the second Ctrl-C, once.
        """
        if os.getpid() != self._process:
            return  # a worker that loads batches, which the run needs to the end of its step
        if number == signal.SIGINT:
            self._hear_interrupt()
        self._wish = max(self._wish, self._meanings[signal.Signals(number)])

    def _hear_interrupt(self) -> None:
        now = time.monotonic()
        if self._interrupted_at is None:
            self._interrupted_at = now
            if self._speaks:
                os.write(2, _STOPPING)  # printing is not safe wherever this interrupts
        elif now - self._interrupted_at >= _PATIENCE_SECONDS and not self._gives_up:
            self._gives_up = True
            raise KeyboardInterrupt


def requeue() -> None:
    """Put this SLURM job back into the queue; says so where there is none or SLURM refuses."""
    job = os.environ.get("SLURM_JOB_ID")
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) is not None:
        job = f"{array}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    if job is None:
        _LOG.warning("requeue: SLURM_JOB_ID is not set, so there is no job to put back")
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
        _LOG.warning("requeue: job %s waits in the queue again", job)
