"""Room in the cache of shards: what is deleted when it is full."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

from filelock import FileLock

from clipkit.errors import ConfigError, DataError

PART_SUFFIX: Final = ".part"
"""Suffix of a shard that is being transferred."""
PARTIAL_SUFFIX: Final = ".blocks"
"""Suffix of the parts of a shard."""
_ABANDONED_SECONDS: Final = 24 * 3600
_ROOM_BYTES: Final = 256 * 2**20
_STAT_BLOCK_BYTES: Final = 512
"""Unit of ``st_blocks`` on every system."""


@final
class Room:
    """Deletes the least recently used shards of a folder, whose processes share it.

    Args:
        folder: Folder of the cache.
        max_bytes: Limit of the size of all shards.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        if max_bytes < 0:
            raise ConfigError(f"cache.max_bytes: expected 0 or more, got {max_bytes}")
        self._folder = folder
        self._max_bytes = max_bytes
        self._roomy_bytes = 0

    def make(self, needed_bytes: int, keep: Path | None = None) -> None:
        """Delete the least recently used shards until a shard fits.

        Args:
            needed_bytes: Size of the shard.
            keep: Path that is not deleted.

        Raises:
            DataError: If the shard is larger than the cache.
        """
        if needed_bytes > self._max_bytes:
            raise DataError(
                f"cache {self._folder}: a shard of {needed_bytes} bytes does not fit into "
                f"max_bytes={self._max_bytes}; raise the limit"
            )
        with FileLock(str(self._folder / "evict.lock")):
            entries = sorted(self._entries(), key=lambda entry: entry[1].st_mtime)
            total = sum(_size_on_disk(path, status) for path, status in entries) + needed_bytes
            for path, status in entries:
                if total <= self._max_bytes:
                    return
                young = time.time() - status.st_mtime < _ABANDONED_SECONDS
                if path == keep or (path.suffix == PART_SUFFIX and young):
                    continue
                path.unlink(missing_ok=True)
                total -= _size_on_disk(path, status)

    def reserve(self, num_bytes: int) -> None:
        """Make room for parts, in large steps: each lists the complete cache."""
        if self._roomy_bytes < num_bytes:
            room = min(max(num_bytes, _ROOM_BYTES), self._max_bytes)
            self.make(max(room, num_bytes))
            self._roomy_bytes = room
        self._roomy_bytes -= num_bytes

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        for path in self._folder.glob("??/*"):
            if path.suffix != ".lock":
                with contextlib.suppress(FileNotFoundError):
                    yield path, path.stat()


def _size_on_disk(path: Path, status: os.stat_result) -> int:
    """Return the size of an entry; of a sparse file only the parts that it contains."""
    is_partial = path.suffix == PARTIAL_SUFFIX
    return status.st_blocks * _STAT_BLOCK_BYTES if is_partial else status.st_size
