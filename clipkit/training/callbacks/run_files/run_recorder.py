"""Write ``run.json``: state, metrics and checkpoints of a run, for ``clipkit runs``."""

from __future__ import annotations

import logging
import math
import os
import socket
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, final

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipkit.addresses import is_local, local_path
from clipkit.errors import DataError
from clipkit.runs.record import (
    HEARTBEAT_SECONDS,
    Best,
    RunRecord,
    config_hash,
    read_run,
    write_run,
)
from clipkit.suggestions import one_line
from clipkit.training.callbacks.save_checkpoint import SaveCheckpoint
from clipkit.training.checkpoints.files import LAST, join
from clipkit.training.lightning_compat import callbacks_of
from clipkit.training.loggers.environment import package_versions
from clipkit.training.progress.run_progress import pair_data

_LOG: Final = logging.getLogger(__name__)
_MAX_ERROR: Final = 300


@final
class RunRecorder(Callback):
    """Writes ``run.json`` into the folder of a run, from the first batch to the end.

    ``clipkit fit`` always has this callback. A separate thread writes the file every 10 seconds; a
    run that is killed leaves a record whose time is old. The file of a run in a remote folder is
    not written.

    Examples:
        >>> trainer = Trainer(callbacks=[RunRecorder()])
    """

    def __init__(self) -> None:
        self._metrics = _LastValues()
        self._record: RunRecord | None = None
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_reported = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add a logger that receives the metrics."""
        # With no logger, the first one would change where Lightning's callbacks write.
        if stage == "fit" and trainer.loggers and self._metrics not in trainer.loggers:
            trainer.loggers = [*trainer.loggers, self._metrics]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Write the first record: a run that is refused before it trains leaves the earlier one."""
        folder = str(trainer.default_root_dir)
        if self._record is not None or not trainer.is_global_zero or not is_local(folder):
            return
        data, now = pair_data(trainer), time.time()
        state = {} if data is None else data.train_stream.state_dict()
        masks = () if data is None else data.train_stream.masks
        self._record = RunRecord(
            local_path(folder), "running", now, now, socket.gethostname(), os.getpid(),
            trainer.world_size, trainer.global_step,
            config_hash=config_hash(getattr(pl_module, "run_config", {})),
            data_fingerprint=str(state.get("fingerprint", "")),
            masks={mask.name: mask.fingerprint for mask in masks},
            versions=package_versions(),
        )  # fmt: skip
        if trainer.global_step:  # a resumed run
            self._metrics.values = _previous_metrics(local_path(folder)) | self._metrics.values
        self._stop.clear()
        self._update(trainer)
        self._write()
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Take over step, metrics and checkpoints, which the thread writes."""
        self._update(trainer)

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """Take over the metrics of the validation."""
        self._update(trainer)

    def on_train_end(self, trainer: Trainer, *_: Any) -> None:
        """Take over the last values; later callbacks may still fail."""
        self._update(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the last record of a run that ended without an error."""
        self._end(trainer, "finished")

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write the last record of a run that was stopped or failed."""
        if isinstance(exception, KeyboardInterrupt | SIGTERMException):
            self._end(trainer, "stopped")
        else:
            reason = one_line(f"{type(exception).__name__}: {exception}")
            self._end(trainer, "failed", reason[:_MAX_ERROR])

    def _update(self, trainer: Trainer) -> None:
        if self._record is not None:
            last, best = _checkpoints(trainer)
            metrics = dict(self._metrics.values)
            self._record = replace(
                self._record, step=trainer.global_step, metrics=metrics, best=best, checkpoint=last
            )

    def _end(self, trainer: Trainer, state: str, error: str = "") -> None:
        if self._record is None:
            return
        self._stop.set()
        if self._thread is not None:
            self._thread.join()
        self._update(trainer)
        self._record = replace(self._record, state=state, error=error)
        self._write()
        self._record = self._thread = None

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_SECONDS):
            self._write()

    def _write(self) -> None:
        """Write the record; a full or missing disk must not end the run."""
        assert self._record is not None
        try:
            write_run(replace(self._record, updated=time.time()))
        except OSError as error:
            if not self._is_reported:
                _LOG.error("run.json: not written: %s; tried again later", error.strerror)
            self._is_reported = True


def _previous_metrics(folder: Path) -> dict[str, float]:
    """Return the metrics of an earlier launch of a run."""
    try:
        return dict(read_run(folder).metrics)
    except DataError:
        return {}


def _checkpoints(trainer: Trainer) -> tuple[str, Best | None]:
    """Return the last and the best checkpoint; paths inside of the run's folder are relative."""
    folder = local_path(str(trainer.default_root_dir)).absolute()
    last, best = "", None
    for saver in callbacks_of(trainer, SaveCheckpoint):
        last = last or _relative(join(saver.folder_of(trainer), LAST), folder)
        if saver.monitored_metric and saver.best_model_score is not None and best is None:
            value = float(saver.best_model_score)
            best = Best(saver.monitored_metric, value, _relative(saver.best_model_path, folder))
    return last, best


def _relative(checkpoint: str, folder: Path) -> str:
    if not checkpoint or not is_local(checkpoint):
        return checkpoint
    path = local_path(checkpoint).absolute()
    return str(path.relative_to(folder)) if path.is_relative_to(folder) else str(path)


@final
class _LastValues(Logger):
    """Stores the last finite value of each logged metric."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, float] = {}

    @property
    def name(self) -> str:
        return "run"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        finite = {name: float(value) for name, value in metrics.items()}
        self.values |= {
            name: value
            for name, value in finite.items()
            if math.isfinite(value) and name != "epoch"
        }
