"""Checkpoints that are written atomically and read safely."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final, final

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch import Trainer

from clipkit.errors import CheckpointError, ConfigError, first_line
from clipkit.models.files.sharded import is_sharded, read_sharded, split_shards
from clipkit.models.files.state_dicts import read_file
from clipkit.training.checkpoints import places
from clipkit.training.checkpoints.remote import local_copy
from clipkit.training.checkpoints.writers import CheckpointWriter, WriteAtOnce
from clipkit.training.lightning_compat import set_checkpoint_io

UNREADABLE: Final = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile)
_EXTRA_STATE: Final = "_extra_state"
"""End of the names of state that a module loads by itself."""
_VERSION: Final = "pytorch-lightning_version"


@final
class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a local checkpoint under a temporary name in the folder of its target.

    Lightning's temporary file may be on another disk; its last step is then a copy, and a killed
    run leaves an incomplete checkpoint. Remote paths are left to fsspec, whose stores show an
    object when it is complete.

    Args:
        device: Type of the device of the run. A GPU's copy of weights and moments is made from the
            pages of the file, which the ranks of a machine share; a CPU needs one of its own.

    Attributes:
        writer: Writer that decides when a checkpoint is written.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self._device = device
        self.writer: CheckpointWriter = WriteAtOnce()

    def save_checkpoint(
        self,
        checkpoint: dict[str, Any],
        path: str | Path,
        storage_options: Any = None,
    ) -> None:
        """Write ``checkpoint`` to ``path``."""
        self.writer.give(checkpoint, lambda content, _: places.write_file(content, str(path)))

    def save_sharded(self, checkpoint: dict[str, Any], path: str, name: str) -> None:
        """Write this rank's part of a checkpoint to the folder ``path``; all ranks call it.

        Args:
            checkpoint: Content, with sharded tensors.
            path: Path or URL of the folder.
            name: New name, the same on every rank, for files before they are complete.
        """
        self.writer.give(
            split_shards(checkpoint),
            lambda content, group: places.write_parts(content, path, name, group),
        )

    def load_checkpoint(
        self, path: str | Path, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint of a run from a file, a URL or a folder of parts to the CPU.

        Only tensors and plain types are unpickled, even if Lightning or the environment variable
        ``TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD`` allows more.
        """
        refuse_unpickling(weights_only)
        if is_sharded(path):
            return read_sharded(path)
        try:
            with local_copy(str(path)) as file:
                checkpoint = read_file(file, mapped=True)
        except (*UNREADABLE, KeyError) as error:
            raise CheckpointError(
                f"{path}: cannot be read as a checkpoint: {first_line(error)}"
            ) from error
        if not isinstance(checkpoint, dict) or _VERSION not in checkpoint:
            raise CheckpointError(
                f"{path}: expected a checkpoint of clipkit fit; to start from another model's "
                f"weights, set --model.encoder"
            )
        kept = ("state_dict",) if self._device == "cpu" else ("state_dict", "optimizer_states")
        return _unmapped(checkpoint, kept)


def use_atomic_checkpoints(trainer: Trainer) -> None:
    """Set ``AtomicCheckpointIO`` in a trainer, unless its strategy has another plugin."""
    set_checkpoint_io(trainer, AtomicCheckpointIO(trainer.strategy.root_device.type))


def refuse_unpickling(weights_only: bool | None) -> None:
    """Refuse the option that lets a checkpoint run code."""
    if weights_only is False:
        raise ConfigError(
            "weights_only: expected true, got false: a checkpoint that is unpickled can run any "
            "code; clipkit reads tensors and plain types only"
        )


def _unmapped(checkpoint: dict[str, Any], kept: Collection[str]) -> dict[str, Any]:
    """Copy mapped tensors, except for those that are copied when they are loaded.

    Others may be used as they are, and would keep the file open for the time of the run.
    """
    return {key: _copied(value, is_outside=key in kept) for key, value in checkpoint.items()}


def _copied(value: Any, *, is_outside: bool = False) -> Any:
    """Copy the tensors of nested containers; parameters and moments ``is_outside`` are not."""
    if isinstance(value, torch.Tensor):
        # optimizers use their steps, which are scalars, as they are
        return value if is_outside and value.dim() else value.clone()
    if isinstance(value, dict):
        return {
            key: _copied(child, is_outside=is_outside and not str(key).endswith(_EXTRA_STATE))
            for key, child in value.items()
        }
    if isinstance(value, list | tuple):
        return type(value)(_copied(child, is_outside=is_outside) for child in value)
    return value
