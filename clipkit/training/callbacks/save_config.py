"""The resolved configuration, beside what the run writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from clipkit.atomic_files import write_text


@final
class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's folder at the first batch of a fit.

    The folder is ``trainer.default_root_dir``: the same for every logger, and the one that holds
    ``last.ckpt``. A resumed run writes the file again. A run that is refused before it trains
    leaves the file as it was.
    """

    _written = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write nothing yet, where Lightning's callback would."""

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Write the file on one rank, by a temporary name beside it."""
        if self._written or not trainer.is_global_zero:
            return
        self._written = True
        path = Path(trainer.default_root_dir) / self.config_filename
        write_text(path, self.parser.dump(self.config, skip_none=False))
