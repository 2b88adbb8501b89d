"""Record a few steps of a run with torch's profiler."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, final

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.profiler import ProfilerActivity, profile

from clipkit.addresses import is_local, local_path
from clipkit.atomic_files import new_file, write_bytes, write_text
from clipkit.errors import ConfigError, check_at_least
from clipkit.training.lightning_compat import (
    start_memory_record,
    stop_memory_record,
    write_memory_record,
)
from clipkit.types import Batch

_ROWS: Final = 40
_MAX_EVENTS: Final = 100_000


@final
class ProfileSteps(Callback):
    """Records some batches of rank 0 with ``torch.profiler``, and optionally a GPU's memory.

    The run's folder gets ``profile/trace.json.gz`` (for https://ui.perfetto.dev) and
    ``profile/operators.txt`` (the operators that take the longest); with ``memory`` also
    ``profile/memory.pickle`` (for https://pytorch.org/memory_viz). Recorded steps are slower. With
    ``out_of_memory``, every rank records its memory during the complete fit.

    Args:
        first_batch: Number of batches to train on before the recording starts. The first ones of a
            run compile kernels and are not typical.
        num_batches: Number of batches to record.
        memory: Whether to record every allocation of GPU memory, with the code that made it.
        out_of_memory: Whether a rank N whose GPU runs out of memory writes its last allocations
            to ``profile/out_of_memory-N.pickle``, for the same page. It takes some time in every
            step.

    Raises:
        ConfigError: If a number is too small; when the fit starts, if the run's folder is no local
            folder, or memory is to be recorded on a device other than a GPU.

    Examples:
        >>> trainer = Trainer(callbacks=[ProfileSteps(first_batch=20, num_batches=3)])
    """

    def __init__(
        self,
        first_batch: int = 20,
        num_batches: int = 3,
        memory: bool = False,
        out_of_memory: bool = False,
    ) -> None:
        check_at_least("first_batch", first_batch, 0)
        check_at_least("num_batches", num_batches, 1)
        self.first_batch = first_batch
        self.num_batches = num_batches
        self.memory = memory
        self.out_of_memory = out_of_memory
        self._num_seen = 0
        self._profiler: profile | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Refuse what cannot be written or recorded."""
        if not is_local(str(trainer.default_root_dir)):
            raise ConfigError(
                f"ProfileSteps: expected a local folder in trainer.default_root_dir, got "
                f"{trainer.default_root_dir}"
            )
        for name in ("memory", "out_of_memory"):
            if getattr(self, name) and pl_module.device.type != "cuda":
                raise ConfigError(
                    f"ProfileSteps.{name}: expected a run on a GPU, got {pl_module.device.type}; "
                    f"omit it"
                )
        self._num_seen = 0
        if self.out_of_memory:
            start_memory_record(_MAX_EVENTS)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Start the recording."""
        if self._num_seen != self.first_batch or not trainer.is_global_zero:
            return
        activities = [ProfilerActivity.CPU]
        if pl_module.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        if self.memory:
            start_memory_record(_MAX_EVENTS)
        self._profiler = profile(activities=activities, record_shapes=True)
        self._profiler.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *_: Any
    ) -> None:
        """End the recording after its last batch, and write the files."""
        self._num_seen += 1
        if self._num_seen == self.first_batch + self.num_batches:
            self._finish(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files if the run ends during the recording."""
        self._finish(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Write the files if the run fails during the recording, or runs out of memory."""
        if self.out_of_memory and isinstance(exception, torch.OutOfMemoryError):
            _write_memory(trainer, f"out_of_memory-{trainer.global_rank}.pickle")
        self._finish(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """End the record of a complete fit."""
        if self.out_of_memory and stage == "fit":
            stop_memory_record()

    def _finish(self, trainer: Trainer) -> None:
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        folder = local_path(str(trainer.default_root_dir)) / "profile"
        _write_trace(profiler, folder / "trace.json.gz")
        events = profiler.key_averages()
        on_gpu = ProfilerActivity.CUDA in profiler.activities
        column = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        write_text(folder / "operators.txt", events.table(sort_by=column, row_limit=_ROWS))
        if self.memory:
            _write_memory(trainer, "memory.pickle")
            if not self.out_of_memory:
                stop_memory_record()


def _write_memory(trainer: Trainer, name: str) -> None:
    path = local_path(str(trainer.default_root_dir)) / "profile" / name
    with new_file(path) as temporary:
        write_memory_record(temporary)


def _write_trace(profiler: profile, path: Path) -> None:
    with TemporaryDirectory() as folder:
        traced = Path(folder) / path.name  # torch compresses if the name ends in .gz
        profiler.export_chrome_trace(str(traced))
        write_bytes(path, traced.read_bytes())
