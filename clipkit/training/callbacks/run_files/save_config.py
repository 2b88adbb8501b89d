"""Write the resolved configuration into the folder of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from clipkit.atomic_files import write_text


@final
class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's folder at the first batch of a fit.

    The folder is ``trainer.default_root_dir``, which is independent of loggers and contains
    ``last.ckpt``. A resumed run writes the file again. A run that is refused before it trains
    leaves the file as it was.
    """

    _written = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet, in contrast to Lightning's callback."""

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Write the file atomically on rank 0."""
        if self._written or not trainer.is_global_zero:
            return
        self._written = True
        path = Path(trainer.default_root_dir) / self.config_filename
        write_text(path, self.parser.dump(self.config, skip_none=False))
