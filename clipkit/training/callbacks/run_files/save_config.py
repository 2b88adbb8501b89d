"""Write the resolved configuration into the folder of the run."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, final

from lightning.pytorch import Callback, Trainer

from clipkit.atomic_files import write_text

_NAME: Final = "config.yaml"


@final
class SaveConfig(Callback):
    """Writes ``config.yaml`` into the run's folder at the first batch of a fit.

    The folder is ``trainer.default_root_dir``, which is independent of loggers and contains
    ``last.ckpt``. A resumed run writes the file again. A run that is refused before it trains
    leaves the file as it was.

    Args:
        config: The resolved configuration, as YAML.
    """

    def __init__(self, config: str) -> None:
        self._config = config
        self._written = False

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Write the file atomically on rank 0."""
        if self._written or not trainer.is_global_zero:
            return
        self._written = True
        write_text(Path(trainer.default_root_dir) / _NAME, self._config)
