"""Write a checkpoint to its place on a disk or in a store, complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
from lightning.fabric.plugins import TorchCheckpointIO

from clipkit.addresses import is_local, local_path
from clipkit.atomic_files import TEMPORARY_SUFFIX, new_file, put_in_place, temporary_path
from clipkit.distributed.agreement import on_all_ranks
from clipkit.distributed.collectives import rank
from clipkit.models.files.folders import Folder, store_errors
from clipkit.models.files.sharded import ShardedContent, unused_files, write_sharded
from clipkit.models.files.state_dicts import save_plain
from clipkit.training.checkpoints.files import remove_parts


def write_file(checkpoint: Mapping[str, Any], path: str) -> int:
    """Write a checkpoint as one file, and return its number of bytes."""
    if not is_local(path):
        with store_errors():
            TorchCheckpointIO().save_checkpoint(dict(checkpoint), path)
            remove_parts(path)  # of the same name; stores may have both
            system, inside = fsspec.url_to_fs(path)
            return int(system.size(inside) or 0)
    target = local_path(path)
    complete = temporary_path(target) if target.is_dir() else target
    with new_file(complete) as temporary:
        save_plain(checkpoint, temporary)
        num_bytes = temporary.stat().st_size
    if complete != target:
        put_in_place(complete, target)
    return num_bytes


def write_parts(content: ShardedContent, path: str, name: str, group: Any) -> int:
    """Write this rank's part of a checkpoint, and return the number of bytes of all parts.

    All ranks call it. On a disk, the folder is complete when it is renamed. A store cannot rename
    one: there it is complete with its ``meta.pt``, and parts of previous writes are removed after.

    Args:
        content: What this rank writes.
        path: Path or URL of the folder.
        name: New name, the same on every rank, for files before they are complete.
        group: Process group of the exchanges; None for the default one.

    Raises:
        OSError: If a disk is full or a store not available, on every rank; the previous checkpoint
            stays.
    """
    if not is_local(path):
        num_bytes = write_sharded(content, path, name, group)
        if rank() == 0:
            Folder(path).remove(*unused_files(path))
            _remove_file(path)
        return num_bytes
    target = local_path(path)
    complete = target.with_name(f".{target.name}.{name}{TEMPORARY_SUFFIX}")
    try:
        num_bytes = write_sharded(content, complete, group=group)
        on_all_ranks(lambda: _put_in_place(complete, target), group)
    finally:
        if rank() == 0:
            shutil.rmtree(complete, ignore_errors=True)
    return num_bytes


def _put_in_place(complete: Path, target: Path) -> None:
    if rank() == 0:
        put_in_place(complete, target)


def _remove_file(path: str) -> None:
    """Remove the file of a store that has the name of a folder."""
    system, inside = fsspec.url_to_fs(path)
    with store_errors():
        system.invalidate_cache()
        if system.isfile(inside):
            system.rm_file(inside)
