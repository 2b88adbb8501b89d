"""The shards of a collection that are not embedded yet."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from clipkit.atomic_files import TEMPORARY_SUFFIX
from clipkit.collection.info import CollectionInfo
from clipkit.collection.shard_files import TABLE_SUFFIX, ShardFiles
from clipkit.collection.unreadable import is_of_machine
from clipkit.errors import ConfigError, DataError

_LOG: Final = logging.getLogger(__name__)
_OLD_SECONDS: Final = 24 * 3600
_FLOAT16_BYTES: Final = 2


def missing_shards(info: CollectionInfo, folder: Path | str, numbers: Iterable[int]) -> list[int]:
    """Return those of some shards that have no complete files.

    The table of a shard whose files are damaged is removed, so that it counts as missing for every
    process. Files that this machine cannot read now, such as those of a server that does not
    answer, are not damaged.

    Args:
        info: Record of the collection.
        folder: The collection.
        numbers: Numbers of the shards.

    Raises:
        DataError: If files cannot be read for another reason than that they are damaged.
    """
    missing = []
    for number in numbers:
        files = ShardFiles(folder, info.shards[number], info.embedding_dim)
        if not files.is_complete():
            missing.append(number)
            continue
        try:
            files.check(info.kinds)
        except DataError as error:
            if is_of_machine(error):
                raise
            _LOG.warning("embedding shard %s again: %s", files.shard.name, error)
            (Path(folder) / f"{files.shard.name}{TABLE_SUFFIX}").unlink(missing_ok=True)
            missing.append(number)
    return missing


def check_space(info: CollectionInfo, folder: Path | str, numbers: Iterable[int]) -> None:
    """Refuse a disk that has not even space for the embeddings of images and sounds.

    Args:
        info: Record of the collection.
        folder: The collection.
        numbers: Numbers of the shards that are missing.

    Raises:
        ConfigError: If the disk has less.
    """
    num_rows = sum(info.shards[number].num_samples for number in numbers)
    num_matrices = info.has_images + len(info.modalities)
    num_bytes = num_matrices * num_rows * info.embedding_dim * _FLOAT16_BYTES
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise ConfigError(
            f"--output: {folder} needs at least {num_bytes / 1e6:,.0f} MB for {num_rows:,} "
            f"samples, the disk has {free / 1e6:,.0f} MB; free some space, or choose another folder"
        )


def remove_old_temporaries(folder: Path | str) -> None:
    """Remove what a killed process was writing a day ago or earlier; others may be in use."""
    oldest = time.time() - _OLD_SECONDS
    for path in Path(folder).glob(f".*{TEMPORARY_SUFFIX}"):
        try:
            if path.is_file() and path.stat().st_mtime < oldest:
                path.unlink()
        except FileNotFoundError:  # another process removed it
            continue
