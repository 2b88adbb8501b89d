"""The resolved configuration, beside what the run writes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import final

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback


@final
class SaveConfig(SaveConfigCallback):
    """Writes ``config.yaml`` into the run's folder when a fit starts, and tells the loggers.

    The folder is ``trainer.default_root_dir``: the same for every logger, and the one that holds
    ``last.ckpt``. A resumed run writes the file again.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:  # noqa: ARG002
        """Write the file on one rank, by a temporary name beside it."""
        if stage != "fit" or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        beside = folder / f".{self.config_filename}.{os.getpid()}"
        text = self.parser.dump(self.config, skip_none=False)
        beside.write_text(text, encoding="utf-8")
        beside.replace(folder / self.config_filename)
