"""The table of the samples of a shard, and its scan from a tar."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Int64, UInt8, UInt16

from clipkit.data.shards.tar_headers import TarContents, TarWalk, scan_tar
from clipkit.data.shards.tar_links import Member
from clipkit.data.storage.remote import SYSTEM_ERRNOS
from clipkit.errors import ShardError

_MAX_EXTENSIONS: Final = 2**16
_SHOWN_EXTENSIONS: Final = 3
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), 127)}


@dataclass(frozen=True, slots=True, eq=False)
class ShardTable:
    """The samples of one shard, in columns.

    Args:
        keys: Concatenation of all keys, in UTF-8.
        key_ends: Start of each key in ``keys``, and end of the last one.
        member_ends: Number of the first member of each sample, and number of members.
        extensions: Distinct extensions, in lower case.
        kinds: Position in ``extensions`` of the extension of each member.
        offsets: Offset of each member's contents in the tar, in bytes.
        sizes: Size of each member's contents, in bytes.
    """

    keys: UInt8[np.ndarray, " bytes"]
    key_ends: Int64[np.ndarray, " N+1"]
    member_ends: Int64[np.ndarray, " N+1"]
    extensions: tuple[str, ...]
    kinds: UInt16[np.ndarray, " members"]
    offsets: Int64[np.ndarray, " members"]
    sizes: Int64[np.ndarray, " members"]

    def __len__(self) -> int:
        return len(self.key_ends) - 1

    def key(self, index: int) -> str:
        """Return the key of sample ``index``."""
        start, end = self.key_ends[index : index + 2]
        return self.keys[start:end].tobytes().decode("utf-8", "backslashreplace")

    def members(self, index: int) -> dict[str, tuple[int, int]]:
        """Return ``extension -> (offset, size)`` of sample ``index``, in the order of the tar."""
        start, end = self.member_ends[index : index + 2]
        return {
            self.extensions[kind]: (int(offset), int(size))
            for kind, offset, size in zip(
                self.kinds[start:end], self.offsets[start:end], self.sizes[start:end], strict=True
            )
        }

    def iter_keys(self) -> Iterator[str]:
        """Yield every key, in order."""
        return (self.key(index) for index in range(len(self)))

    def digest(self) -> str:
        """Hash the keys, extensions and member sizes, in order.

        Offsets are left out: they follow from the rest.
        """
        digest = hashlib.blake2b("\0".join(self.extensions).encode(), digest_size=16)
        digest.update(self.keys.tobytes())
        for column in (self.key_ends, self.member_ends, self.kinds, self.sizes):
            digest.update(column.astype("<i8").tobytes())
        return digest.hexdigest()


def split_name(name: str) -> tuple[str, str] | None:
    """Split a name as WebDataset does: the key ends before the first dot of the base name.

    Hidden files (``._0001.jpg``, which macOS adds) belong to no sample, nor do WebDataset's own
    ``__meta__`` entries.

    Examples:
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


def name_as_text(name: bytes) -> str:
    r"""Decode a member's name; control characters and other bytes become ``\x..`` escapes.

    Keys are printed, logged and written to files, where such bytes would fail or break lines.

    Examples:
        >>> name_as_text(b"caf\xe9.jpg")
        'caf\\xe9.jpg'
    """
    text = name.decode("utf-8", "backslashreplace")
    return text if text.isprintable() else text.translate(_CONTROLS)


@final
class MemberNames:
    """Splits the names of a tar's members, in order, and refuses those that repeat.

    Args:
        url: Address of the tar, for messages.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._seen: set[str] = set()
        self._current: str | None = None
        self._extensions: set[str] = set()

    @property
    def num_samples(self) -> int:
        """Number of samples so far."""
        return len(self._seen)

    def split(self, name: bytes) -> tuple[str, str, bool] | None:
        """Return key, extension, and whether a sample begins; None if the name is of no sample."""
        parts = split_name(name_as_text(name))
        if parts is None:
            return None
        key, extension = parts
        begins = key != self._current
        if begins:
            if key in self._seen:
                raise ShardError(
                    f"{self._url}: duplicate key {key!r}: its members are not next to each other, "
                    f"or two samples share the name; pack the shard again"
                )
            self._current, self._extensions = key, set()
            self._seen.add(key)
        if extension in self._extensions:
            raise ShardError(
                f"{self._url}: duplicate member {key}.{extension}; pack the shard again"
            )
        self._extensions.add(extension)
        return key, extension, begins


def table_from_members(members: list[Member], url: str) -> ShardTable:
    """Group consecutive members with one key into samples."""
    keys: list[bytes] = []
    member_ends: list[int] = [0]
    kinds: list[int] = []
    offsets: list[int] = []
    sizes: list[int] = []
    extensions: dict[str, int] = {}
    names = MemberNames(url)
    for member in members:
        parts = names.split(member.name)
        if parts is None:
            continue
        key, extension, begins = parts
        if begins:
            keys.append(key.encode())
            member_ends.append(len(kinds))
        kinds.append(extensions.setdefault(extension, len(extensions)))
        offsets.append(member.offset)
        sizes.append(member.size)
        member_ends[-1] = len(kinds)
    if len(extensions) > _MAX_EXTENSIONS:
        shown = ", ".join(f".{name}" for name in list(extensions)[-_SHOWN_EXTENSIONS:])
        raise ShardError(
            f"{url}: {len(extensions)} different extensions, such as {shown}; expected at most "
            f"{_MAX_EXTENSIONS}. A key ends at the first dot of a name: pack the shard again with "
            f"keys that contain no dots"
        )
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
    """Scan the headers of a local tar."""
    try:
        # Opening a pipe without a writer would block.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ShardError(f"{url}: no such file") from error
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) in SYSTEM_ERRNOS:
            raise
        reason = getattr(error, "strerror", None) or error
        raise ShardError(f"{url}: cannot be read: {reason}") from error
    try:
        size_bytes = os.fstat(descriptor).st_size
        contents = scan_tar(
            lambda offset, length: os.pread(descriptor, length, offset), size_bytes, url
        )
    except IsADirectoryError as error:
        raise ShardError(f"{url}: a folder, expected a tar file") from error
    finally:
        os.close(descriptor)
    _check_resolved(contents, url)
    table = table_from_members(contents.members, url)
    check_count(len(table), len(contents.members), contents, size_bytes, url, expected_samples)
    return table


def _check_resolved(contents: TarContents, url: str) -> None:
    for entry in contents.unresolved:
        name = name_as_text(entry.name)
        if split_name(name) is not None:  # other names are not part of a sample
            raise ShardError(
                f"{url}: {name!r}: expected a file, got {entry.reason}; its sample would lack it. "
                f"Pack the shard again with the file itself (tar --dereference "
                f"--hard-dereference)"
            )


def check_count(
    num_samples: int,
    num_members: int,
    contents: TarContents | TarWalk,
    size_bytes: int,
    url: str,
    expected: int | None,
) -> None:
    """Check that a tar of known contents is complete.

    Args:
        num_samples: Number of its samples.
        num_members: Number of its files.
        contents: Its directories and whether it has an end marker.
        size_bytes: Size in bytes.
        url: Address of the tar, for messages.
        expected: Number of samples of its index or counts file; None if it is unknown.
    """
    if expected is not None and num_samples != expected:
        raise ShardError(
            f"{url}: expected {expected} samples, as in its index or counts file, got "
            f"{num_samples}; the shard was truncated or changed: copy it again or index it again"
        )
    if not contents.has_end_marker and expected is None and size_bytes:
        raise ShardError(
            f"{url}: truncated: the end marker of a tar is missing after {num_members} "
            f"members, so samples may be lost; copy or pack the shard again"
        )
    if num_samples == 0:
        raise ShardError(
            f"{url}: empty shard: expected files named KEY.EXTENSION, got {num_members} other "
            f"files, {contents.num_directories} directories in {size_bytes} bytes"
        )
