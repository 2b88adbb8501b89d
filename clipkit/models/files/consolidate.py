"""Convert a sharded checkpoint into one file."""

from __future__ import annotations

from pathlib import Path

from clipkit.atomic_files import new_file
from clipkit.errors import CheckpointError
from clipkit.models.files.sharded import is_sharded, read_sharded, why_incomplete
from clipkit.models.files.state_dicts import save_plain


def consolidate_checkpoint(folder: Path | str, output: Path | str) -> int:
    """Write a sharded checkpoint as one file: weights, optimizer, data position, configuration.

    All checksums are compared. No GPU and no process group are needed, but memory for the complete
    checkpoint.

    Args:
        folder: Path or URL of a folder of ``ShardedStrategy`` with ``checkpoint: sharded``.
        output: The file.

    Returns:
        The number of completed optimizer steps of the checkpoint.

    Raises:
        CheckpointError: If the folder is no sharded checkpoint, or is incomplete.

    Examples:
        >>> Path("last.ckpt").touch()
        >>> consolidate_checkpoint("last.ckpt", "consolidated.ckpt")
        Traceback (most recent call last):
            ...
        clipkit.errors.CheckpointError: last.ckpt: expected a sharded checkpoint, got one file
    """
    if not is_sharded(folder):
        kind = "one file" if Path(folder).is_file() else "something else"
        raise CheckpointError(f"{folder}: expected a sharded checkpoint, got {kind}")
    if problem := why_incomplete(folder):
        raise CheckpointError(f"{folder}: {problem}")
    checkpoint = read_sharded(folder)
    with new_file(output) as temporary:
        save_plain(checkpoint, temporary)
    return int(checkpoint["global_step"])
