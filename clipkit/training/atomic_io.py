"""Checkpoints that are whole or not there."""

from __future__ import annotations

import pickle
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, Final, final

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.cloud_io import _is_local_file_protocol as is_local
from lightning.pytorch import Trainer

from clipkit.errors import CheckpointError
from clipkit.models.state_dicts import write_whole

UNREADABLE: Final = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile)
_VERSION: Final = "pytorch-lightning_version"


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
            OSError: If the disk is full, or the disk or the store refuses; the former checkpoint is
                still there then.
        """
        if is_local(str(path)):
            write_whole(Path(path), partial(_save, checkpoint))
            return
        try:
            super().save_checkpoint(checkpoint, path, storage_options)
        except OSError:
            raise
        except Exception as error:  # each store has classes of its own for "not now"
            raise OSError(f"{type(error).__name__}: {error}") from error

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of a run.

        Raises:
            CheckpointError: If the file is missing, torn, or no checkpoint of a run.
        """
        try:
            loader = super().load_checkpoint
            checkpoint = loader(path, map_location or (lambda storage, _: storage), weights_only)
        except (*UNREADABLE, KeyError) as error:
            first_line = str(error).split("\n", 1)[0]
            raise CheckpointError(
                f"{path}: cannot be read as a checkpoint: {first_line}"
            ) from error
        if not isinstance(checkpoint, dict) or _VERSION not in checkpoint:
            raise CheckpointError(
                f"{path}: expected a checkpoint of clipkit fit; to start from another model's "
                f"weights, give them to --model.encoder"
            )
        return checkpoint


def _save(checkpoint: dict[str, Any], path: Path) -> None:
    """``torch.save``, with the disk's own error where the disk is at fault.

    Raises:
        OSError: Naming the file; torch would say "unexpected pos" of a full disk.
    """
    with path.open("wb") as file:
        try:
            torch.save(checkpoint, file)
        except RuntimeError as error:
            if not isinstance(cause := error.__context__, OSError):
                raise
            raise OSError(cause.errno, cause.strerror, str(path)) from error


def write_atomically(trainer: Trainer) -> None:
    """Have a trainer read and write checkpoints so, unless its strategy has a way of its own."""
    if type(trainer.strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = AtomicCheckpointIO()
