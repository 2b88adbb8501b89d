"""Checkpoints that are whole or not there."""

from __future__ import annotations

from pathlib import Path
from typing import Any, final

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol as is_local

from clipkit.models.state_dicts import write_whole


@final
class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a local checkpoint beside its target, to the disk, and only then renames it.

    Lightning's own goes through a temporary file that may lie on another disk; its last move is
    then a copy, and a killed run leaves half a checkpoint. Remote paths are left to fsspec, whose
    stores show an object only once it is complete.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path``.

        Args:
            checkpoint: What ``Trainer.save_checkpoint`` collected.
            path: The target; missing folders are made.
            storage_options: Not supported, as in Lightning's own.

        Raises:
            OSError: If the disk is full or refuses; the former checkpoint is still there then.
        """
        if is_local(str(path)):
            write_whole(Path(path), lambda beside: torch.save(checkpoint, beside))
        else:
            super().save_checkpoint(checkpoint, path, storage_options)
