"""Detect a run without progress, and report which ranks block it."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any, Final, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.errors import ConfigError
from clipkit.training.health.heartbeat import (
    STEP,
    Heartbeat,
    diagnose,
    read_heartbeats,
    write_heartbeat,
)

_LOG: Final = logging.getLogger(__name__)
_DATA: Final = "waiting for data"
ABORTED: Final = 75
"""Status of a process that ended itself: that of a temporary failure in sysexits.h."""


@final
class Watchdog(Callback):
    """Writes a heartbeat per rank; a rank without progress reports the ranks that block it.

    ``heartbeats/rankN.json`` in the run's folder contains step, phase (training step, waiting for
    data, validation, a checkpoint) and the start of the phase; a separate thread writes it, also
    while the rank hangs. After ``limit_seconds`` without a batch or a change of phase, a rank logs
    which ranks are behind or silent, and writes the stacks of its threads to
    ``heartbeats/rankN.stacks.txt``. A slow rank may recover, so that no process is ended, unless
    ``abort_after_seconds`` is set: then a rank ends itself with status 75 at once, without a
    checkpoint, and torchrun or SLURM ends the others and starts the run again.

    The ranks must share the folder, and their clocks must agree to within the interval.

    Args:
        limit_seconds: Time without progress before a report; longer than any batch or checkpoint.
        interval_seconds: Time between two heartbeats.
        abort_after_seconds: Time without progress before a rank ends itself; None for never.

    Raises:
        ConfigError: If a number is not positive, the limit does not exceed the interval, or
            ``abort_after_seconds`` is less than the limit.

    Examples:
        >>> trainer = Trainer(callbacks=[Watchdog(limit_seconds=600)])
    """

    def __init__(
        self,
        limit_seconds: float = 600.0,
        interval_seconds: float = 10.0,
        abort_after_seconds: float | None = None,
    ) -> None:
        if not 0 < interval_seconds < limit_seconds:
            raise ConfigError(
                f"Watchdog: expected 0 < interval_seconds < limit_seconds, got "
                f"{interval_seconds} and {limit_seconds}"
            )
        if abort_after_seconds is not None and abort_after_seconds < limit_seconds:
            raise ConfigError(
                f"Watchdog: expected abort_after_seconds >= limit_seconds, so that the stacks are "
                f"written before the end, got {abort_after_seconds} and {limit_seconds}"
            )
        self.limit_seconds = limit_seconds
        self.abort_after_seconds = abort_after_seconds
        self.interval_seconds = interval_seconds
        self._place = (0, 0, _DATA, time.time())  # step, batches, phase, since
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the thread."""
        self._place = (trainer.global_step, 0, _DATA, time.time())
        self._stop.clear()
        folder = Path(trainer.default_root_dir) / "heartbeats"
        folder.mkdir(parents=True, exist_ok=True)
        arguments = folder, trainer.global_rank, trainer.world_size
        self._thread = threading.Thread(target=self._watch, args=arguments, daemon=True)
        self._thread.start()

    def on_train_batch_start(self, *_: Any) -> None:
        """Enter the phase of the training step."""
        self._enter(STEP)

    def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
        """Enter the phase of waiting for data."""
        self._place = (trainer.global_step, self._place[1] + 1, _DATA, time.time())

    def on_validation_start(self, *_: Any) -> None:
        """Enter the phase of validation."""
        self._enter("validation")

    def on_validation_batch_start(self, *_: Any) -> None:
        """Count a batch of validation as progress."""
        self._enter("validation")

    def on_validation_end(self, *_: Any) -> None:
        """Enter the phase of training."""
        self._enter(_DATA)

    def on_save_checkpoint(self, *_: Any) -> None:
        """Enter the phase of writing a checkpoint."""
        self._enter("writing a checkpoint, or waiting after it")

    def on_train_end(self, *_: Any) -> None:
        """End the thread."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def on_exception(self, *_: Any) -> None:
        """End the thread."""
        self.on_train_end()

    def _enter(self, phase: str) -> None:
        step, batches, _, _ = self._place
        self._place = (step, batches, phase, time.time())

    def _watch(self, folder: Path, rank: int, num_ranks: int) -> None:
        host, pid = socket.gethostname(), os.getpid()
        reported: float | None = None
        while True:
            step, batches, phase, since = self._place
            now = time.time()
            # A full or missing disk must not end the run; the next heartbeat tries again.
            heartbeat = Heartbeat(rank, host, pid, step, batches, phase, since, now)
            with contextlib.suppress(OSError):
                write_heartbeat(folder, heartbeat)
                if now - since > self.limit_seconds and reported != since:
                    reported = since
                    self._report(folder, rank, num_ranks)
            if self.abort_after_seconds is not None and now - since > self.abort_after_seconds:
                self._abort(rank, now - since)
            if self._stop.wait(self.interval_seconds):
                return

    def _abort(self, rank: int, seconds: float) -> None:
        """End this process; the main thread may be in a call that nothing else interrupts."""
        _LOG.error(
            "rank %d ends itself after %.0f s without progress (abort_after_seconds: %.0f); the "
            "run continues from its last checkpoint when it is started again",
            rank, seconds, self.abort_after_seconds,
        )  # fmt: skip
        logging.shutdown()
        os._exit(ABORTED)

    def _report(self, folder: Path, rank: int, num_ranks: int) -> None:
        step, _, phase, since = self._place
        stacks = folder / f"rank{rank}.stacks.txt"
        with stacks.open("w") as file:
            faulthandler.dump_traceback(file, all_threads=True)
        heartbeats = read_heartbeats(folder, num_ranks)
        suspects = diagnose(heartbeats, time.time(), 3 * self.interval_seconds)
        _LOG.error(
            "rank %d has made no progress for %.0f s at step %d (%s); %s; stacks: %s",
            rank, time.time() - since, step, phase,
            "; ".join(suspects) or "all ranks are at the same point", stacks,
        )  # fmt: skip
