"""The sidecar file of a shard: its table, so that the tar is scanned once."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np

from clipkit.atomic_files import write_bytes
from clipkit.data.shards.shard import MAX_SAMPLES
from clipkit.data.shards.shard_table import ShardTable
from clipkit.data.shards.tar_headers import BLOCK_BYTES

_LOG: Final = logging.getLogger(__name__)
# Version 1 ignored links and stored no digest.
_FORMAT_VERSION: Final = 2
_ROOM_BYTES: Final = 2**24
_UNKNOWN: Final = 2**62
_COLUMNS: Final = ("keys", "key_ends", "member_ends", "extensions", "kinds", "offsets", "sizes")


@dataclass(frozen=True, slots=True)
class Summary:
    """Facts about a shard that need no table.

    Args:
        num_samples: Number of samples.
        digest: ``ShardTable.digest`` of the table.
    """

    num_samples: int
    digest: str


def save_table(table: ShardTable, path: Path, size_bytes: int, stamp: str) -> None:
    """Write the sidecar of a shard atomically."""
    buffer = io.BytesIO()
    columns: dict[str, Any] = {
        name: np.asarray(getattr(table, name)) for name in _COLUMNS if name != "extensions"
    }
    np.savez(
        buffer,
        format_version=np.int64(_FORMAT_VERSION),
        size_bytes=np.int64(size_bytes),
        stamp=np.array(stamp),
        num_samples=np.int64(len(table)),
        digest=np.array(table.digest()),
        extensions=np.array(table.extensions, dtype=np.str_),
        **columns,
    )
    write_bytes(path, buffer.getvalue())


def keep_table(table: ShardTable, path: Path, size_bytes: int, stamp: str) -> OSError | None:
    """Write the sidecar of a shard if the disk allows it; else the shard is scanned again."""
    try:
        save_table(table, path, size_bytes, stamp)
    except OSError as error:
        return error
    return None


def load_table(path: Path | BinaryIO, size_bytes: int, stamp: str | None) -> ShardTable | None:
    """Read a sidecar.

    Args:
        path: The file, or its content.
        size_bytes: Size of the shard in bytes.
        stamp: Time of change or entity tag of the shard; None to accept any, because the file comes
            from the place where the shard was packed.

    Returns:
        The table; None if the file is missing, damaged, of another version of the shard, or
        describes what a tar of this length cannot contain.
    """
    values = _load(path, size_bytes, stamp, _COLUMNS)
    if values is None:
        return None
    extensions = values.pop("extensions")
    if extensions.ndim != 1 or extensions.dtype.kind != "U":
        return None
    table = ShardTable(extensions=tuple(map(str, extensions)), **values)
    return table if _is_consistent(table, size_bytes) else None


def load_summary(path: Path, size_bytes: int, stamp: str) -> Summary | None:
    """Read the summary of a sidecar: a few bytes, not the columns."""
    values = _load(path, size_bytes, stamp, ("num_samples", "digest"))
    if values is None or any(value.ndim for value in values.values()):
        return None
    count, digest = values["num_samples"].item(), values["digest"].item()
    if type(count) is not int or not 1 <= count < MAX_SAMPLES or type(digest) is not str:
        return None
    return Summary(count, digest)


def _load(
    path: Path | BinaryIO, size_bytes: int, stamp: str | None, names: Sequence[str]
) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            if sum(info.file_size for info in stored.zip.infolist()) > _limit_of(size_bytes):
                return None
            if int(stored["format_version"]) != _FORMAT_VERSION:
                return None
            if int(stored["size_bytes"]) != size_bytes:
                return None
            if stamp is not None and str(stored["stamp"]) != stamp:
                return None
            return {name: stored[name] for name in names}
    except Exception as error:
        # Damage in a zip or an array's header raises nearly anything (NotImplementedError for a
        # flag, zlib.error, SyntaxError, MemoryError). The sidecar can always be written again.
        if not isinstance(error, FileNotFoundError):
            _LOG.debug("%s: not used: %s", path, error)
        return None


def _limit_of(size_bytes: int) -> int:
    """Return the largest size that the columns of a tar can have: its headers are larger."""
    return _UNKNOWN if size_bytes < 0 else size_bytes + _ROOM_BYTES


def _is_consistent(table: ShardTable, size_bytes: int) -> bool:
    """Return whether a stored table may be that of a tar of this size."""
    ends = (table.key_ends, table.member_ends)
    numbers = (*ends, table.offsets, table.sizes)
    types = [(table.keys, np.uint8), (table.kinds, np.uint16), *((n, np.int64) for n in numbers)]
    if any(column.ndim != 1 or column.dtype != dtype for column, dtype in types):
        return False
    num_members = len(table.offsets)
    end = _UNKNOWN if size_bytes < 0 else size_bytes
    return (
        len(table.key_ends) == len(table.member_ends) >= 2
        and len(table.sizes) == len(table.kinds) == num_members
        # Every sample has a key and a member.
        and all(column[0] == 0 and bool((np.diff(column) > 0).all()) for column in ends)
        and table.key_ends[-1] == len(table.keys)
        and table.member_ends[-1] == num_members
        and int(table.kinds.max()) < len(table.extensions)
        # No sum of offset and size, which could overflow.
        and bool(((table.offsets >= BLOCK_BYTES) & (table.offsets <= end)).all())
        and bool(((table.sizes >= 0) & (table.sizes <= end - table.offsets)).all())
    )
