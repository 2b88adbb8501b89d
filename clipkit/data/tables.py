"""Where every sample of a shard lies: columns, their scan from a tar, and the sidecar file."""

from __future__ import annotations

import io
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Int64, UInt8, UInt16

from clipkit.data.tar_headers import Member, TarContents, scan_tar
from clipkit.errors import ShardError

SIDECAR_SUFFIX: Final = ".index.npz"
_FORMAT_VERSION: Final = 1
_COLUMNS: Final = ("keys", "key_ends", "member_ends", "extensions", "kinds", "offsets", "sizes")


@dataclass(frozen=True, slots=True, eq=False)
class ShardTable:
    """The samples of one shard, in columns. N samples, M members, K bytes of keys.

    Args:
        keys: All keys, one after the other, UTF-8.
        key_ends: Where each key starts and the last ends in ``keys``.
        member_ends: Where each sample's members start and the last end.
        extensions: The distinct extensions, lower case.
        kinds: Of each member, the position of its extension in ``extensions``.
        offsets: Of each member, where its contents start in the tar, in bytes.
        sizes: Of each member, the length of its contents, in bytes.
    """

    keys: UInt8[np.ndarray, " K"]
    key_ends: Int64[np.ndarray, " N+1"]
    member_ends: Int64[np.ndarray, " N+1"]
    extensions: tuple[str, ...]
    kinds: UInt16[np.ndarray, " M"]
    offsets: Int64[np.ndarray, " M"]
    sizes: Int64[np.ndarray, " M"]

    def __len__(self) -> int:
        return len(self.key_ends) - 1

    def key(self, index: int) -> str:
        """The key of sample ``index``."""
        start, end = self.key_ends[index : index + 2]
        return self.keys[start:end].tobytes().decode("utf-8", "surrogateescape")

    def members(self, index: int) -> dict[str, tuple[int, int]]:
        """``extension -> (offset, size)`` of sample ``index``, in the order of the tar."""
        start, end = self.member_ends[index : index + 2]
        return {
            self.extensions[kind]: (int(offset), int(size))
            for kind, offset, size in zip(
                self.kinds[start:end], self.offsets[start:end], self.sizes[start:end], strict=True
            )
        }

    def iter_keys(self) -> Iterator[str]:
        """Every key, in order."""
        return (self.key(index) for index in range(len(self)))


def split_name(name: str) -> tuple[str, str] | None:
    """WebDataset's rule: everything before the first dot of the base name is the key.

    Hidden files (``._0001.jpg``, which macOS adds) belong to no sample, nor do WebDataset's own
    ``__meta__`` entries.

    Returns:
        The key and the lower-case extension, or None for what is no part of a sample.

    Example:
        >>> split_name("train/0001.seg.PNG")
        ('train/0001', 'seg.png')
    """
    folder, slash, base = name.rpartition("/")
    stem, dot, extension = base.partition(".")
    if not stem or not dot:
        return None
    if name.startswith("__") and name.split("/")[0].endswith("__"):
        return None
    return f"{folder}{slash}{stem}", extension.lower()


def table_from_members(members: list[Member], url: str) -> ShardTable:
    """Group consecutive members with one key into samples.

    Args:
        members: The files of the tar, in order.
        url: What errors call the tar.

    Raises:
        ShardError: If a key comes back after another, or a sample has one extension twice.
    """
    keys: list[bytes] = []
    seen: set[str] = set()
    member_ends: list[int] = [0]
    kinds: list[int] = []
    offsets: list[int] = []
    sizes: list[int] = []
    extensions: dict[str, int] = {}
    current: str | None = None
    used: set[str] = set()
    for member in members:
        parts = split_name(member.name.decode("utf-8", "surrogateescape"))
        if parts is None:
            continue
        key, extension = parts
        if key != current:
            if key in seen:
                raise ShardError(
                    f"{url}: duplicate key {key!r}: its members are not next to each other, or two "
                    f"samples share the name; pack the shard again"
                )
            current, used = key, set()
            seen.add(key)
            keys.append(key.encode("utf-8", "surrogateescape"))
            member_ends.append(len(kinds))
        if extension in used:
            raise ShardError(f"{url}: duplicate member {key}.{extension}; pack the shard again")
        used.add(extension)
        kinds.append(extensions.setdefault(extension, len(extensions)))
        offsets.append(member.offset)
        sizes.append(member.size)
        member_ends[-1] = len(kinds)
    return ShardTable(
        keys=np.frombuffer(b"".join(keys), dtype=np.uint8),
        key_ends=np.cumsum([0, *map(len, keys)], dtype=np.int64),
        member_ends=np.array(member_ends, dtype=np.int64),
        extensions=tuple(extensions),
        kinds=np.array(kinds, dtype=np.uint16),
        offsets=np.array(offsets, dtype=np.int64),
        sizes=np.array(sizes, dtype=np.int64),
    )


def scan_shard(path: Path, url: str, expected_samples: int | None = None) -> ShardTable:
    """Scan the headers of a local tar.

    Args:
        path: The tar on this machine.
        url: What errors call it.
        expected_samples: Known number of samples; a different one is an error, and a missing end
            marker is forgiven when it is right.

    Raises:
        ShardError: If the shard is damaged, empty, or has another number of samples.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError as error:
        raise ShardError(f"{url}: no such file") from error
    except (IsADirectoryError, PermissionError) as error:
        raise ShardError(f"{url}: cannot be read: {error.strerror}") from error
    try:
        size_bytes = os.fstat(descriptor).st_size
        contents = scan_tar(
            lambda offset, length: os.pread(descriptor, length, offset), size_bytes, url
        )
    except IsADirectoryError as error:
        raise ShardError(f"{url}: a folder, expected a tar file") from error
    finally:
        os.close(descriptor)
    table = table_from_members(contents.members, url)
    _check_contents(contents, table, size_bytes, url, expected_samples)
    return table


def _check_contents(
    contents: TarContents, table: ShardTable, size_bytes: int, url: str, expected: int | None
) -> None:
    if expected is not None and len(table) != expected:
        raise ShardError(
            f"{url}: expected {expected} samples, as its index or counts file says, got "
            f"{len(table)}; the shard was truncated or changed: copy it again or index it anew"
        )
    if not contents.has_end_marker and expected is None and size_bytes:
        raise ShardError(
            f"{url}: truncated: the end marker of a tar is missing after {len(contents.members)} "
            f"members, so samples may be lost; copy or pack the shard again"
        )
    if len(table) == 0:
        found = f"{len(contents.members)} other files, {contents.num_directories} directories"
        raise ShardError(
            f"{url}: empty shard: expected files named KEY.EXTENSION, got {found} "
            f"in {size_bytes} bytes"
        )


def save_table(table: ShardTable, path: Path, size_bytes: int, stamp: str) -> None:
    """Write the sidecar of a shard, whole or not at all.

    Args:
        table: What to write.
        path: The sidecar.
        size_bytes: Length of the shard that was scanned.
        stamp: Its time of change or entity tag.
    """
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
        extensions=np.array(table.extensions, dtype=np.str_),
        **columns,
    )
    write_atomically(path, buffer.getvalue())


def keep_table(table: ShardTable, path: Path, size_bytes: int, stamp: str) -> OSError | None:
    """Write the sidecar of a shard where the disk allows it; without it the shard is scanned again.

    Args:
        table: What to write.
        path: The sidecar.
        size_bytes: Length of the shard that was scanned, in bytes.
        stamp: Its time of change or entity tag.

    Returns:
        Why the disk refused (read-only, full, no permission); None if the sidecar was written.
    """
    try:
        save_table(table, path, size_bytes, stamp)
    except OSError as error:
        return error
    return None


def load_table(path: Path, size_bytes: int, stamp: str) -> ShardTable | None:
    """Read a sidecar.

    Returns:
        The table; None where the file is absent, unreadable, or of another version of the shard.
    """
    values = _load(path, size_bytes, stamp, _COLUMNS)
    if values is None:
        return None
    extensions = tuple(map(str, values.pop("extensions")))
    return ShardTable(extensions=extensions, **values)


def load_count(path: Path, size_bytes: int, stamp: str) -> int | None:
    """The number of samples that a sidecar tells of; a few bytes are read, not its columns.

    Returns:
        The number; None where ``load_table`` gives None.
    """
    values = _load(path, size_bytes, stamp, ("num_samples",))
    return None if values is None else int(values["num_samples"])


def _load(
    path: Path, size_bytes: int, stamp: str, names: Sequence[str]
) -> dict[str, np.ndarray] | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            if int(stored["format_version"]) != _FORMAT_VERSION:
                return None
            if int(stored["size_bytes"]) != size_bytes or str(stored["stamp"]) != stamp:
                return None
            return {name: stored[name] for name in names}
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None


def write_atomically(path: Path, data: bytes) -> None:
    """Write ``data`` beside ``path`` and rename it there: readers see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
