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
from lightning_utilities.core.apply_func import apply_to_collection

from clipkit.atomic_files import new_file, put_in_place, temporary_path
from clipkit.data.storage.urls import is_local, local_path
from clipkit.errors import CheckpointError, ConfigError, first_line
from clipkit.models.files.sharded import is_sharded, read_sharded
from clipkit.models.files.state_dicts import read_file, save_plain
from clipkit.training.checkpoints.remote import local_copy
from clipkit.training.lightning_compat import set_checkpoint_io

UNREADABLE: Final = (pickle.UnpicklingError, RuntimeError, EOFError, OSError, zipfile.BadZipFile)
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
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()
        self._device = device

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        """Write ``checkpoint`` to ``path``."""
        if is_local(str(path)):
            target = local_path(str(path))
            complete = temporary_path(target) if target.is_dir() else target
            with new_file(complete) as temporary:
                save_plain(checkpoint, temporary)
            if complete != target:
                put_in_place(complete, target)
            return
        try:
            super().save_checkpoint(checkpoint, path, storage_options)
        except OSError:
            raise
        except Exception as error:  # stores have errors without a common base
            raise OSError(f"{type(error).__name__}: {error}") from error

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
    return {
        key: value
        if key in kept
        else apply_to_collection(value, torch.Tensor, lambda tensor: tensor.clone())
        for key, value in checkpoint.items()
    }
