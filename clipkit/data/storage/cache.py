"""Keep complete remote shards on the local disk for all processes of a machine.

The key of a shard is its full URL (two folders may each have a ``00000.tar``). Its size and entity
tag are checked, and it gets its name only when it is complete. At the limit the least recently used
shards are deleted; a process that has one open can still read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Final, final

from filelock import FileLock

from clipkit.atomic_files import wait_for_disk
from clipkit.data.storage.partial import PartialFile, split_ranges
from clipkit.data.storage.remote import (
    RangesIgnored,
    Retries,
    read_ranges,
    read_small,
    stat_remote,
    transfer,
)
from clipkit.data.storage.room import PART_SUFFIX, PARTIAL_SUFFIX, Room
from clipkit.data.storage.urls import STALL_SECONDS, Address
from clipkit.errors import DataError, ShardError

_LOG: Final = logging.getLogger(__name__)
DEFAULT_MAX_BYTES: Final = 100 * 2**30
SIDECAR_SUFFIX: Final = ".index.npz"
"""Suffix of the files with the tables of shards."""
_EARLY_RETRIES: Final = 6
_LARGEST_RANGE_BYTES: Final = 8 * 2**20


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One version of a remote file.

    Args:
        address: Address of the file.
        size_bytes: Size in bytes; -1 if the server does not report it.
        stamp: Entity tag or time of change; "" if the server does not report it.
    """

    address: Address
    size_bytes: int = -1
    stamp: str = ""


@final
class ShardCache:
    """A folder of complete shards with a size limit, safe for many processes.

    Args:
        folder: Folder of the shards; None for ``$CLIPKIT_CACHE`` or ``~/.cache/clipkit/shards``.
        max_bytes: Limit of the size of all shards.
        retries: Number of retries of a transfer, from where it broke, without any progress.
            Twelve outlast a server that is down for three minutes. Before a run, when shards are
            indexed, there are six at most.
        backoff_seconds: Time before the first retry; it doubles with each retry.
        stall_seconds: Time without data after which a transfer over HTTP has failed, and is
            retried.
        ranges: Whether only those parts of a shard are transferred that are read, instead of the
            complete shard. Saves traffic where the samples of a shard are divided among several
            machines, or only some are read. Needs an index file next to the shard, and a server
            that serves ranges of bytes; other shards are transferred completely.

    Examples:
        >>> cache = ShardCache("scratch/shards", max_bytes=200 * 2**30)
        >>> ShardIndex.from_urls("data/train", cache=cache).num_samples  # s3://bucket/{000..127}.tar
        9
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        retries: int = 12,
        backoff_seconds: float = 0.5,
        stall_seconds: float = STALL_SECONDS,
        ranges: bool = False,
    ) -> None:
        default = os.environ.get("CLIPKIT_CACHE") or "~/.cache/clipkit/shards"
        self.folder = Path(folder if folder is not None else default).expanduser()
        self.max_bytes = max_bytes
        self._room = Room(self.folder, max_bytes)
        self.ranges = ranges
        self._with_ranges: set[str] = set()
        self._without_ranges: set[str] = set()
        self.retries = Retries(retries, backoff_seconds, stall_seconds)
        """Number and times of the retries of a transfer."""
        self._early_retries = replace(self.retries, count=min(retries, _EARLY_RETRIES))

    def stat(self, address: Address) -> RemoteFile:
        """Return the version of a remote file that the server has now.

        Raises:
            ShardError: If it is missing or the server does not answer.
        """
        return _stat(address, self._early_retries)

    def read_small(self, address: Address) -> bytes | None:
        """Read a small remote file, without the cache; None if there is none.

        Raises:
            ShardError: If the server does not answer.
        """
        return read_small(address, self._early_retries)

    def path_of(self, remote: RemoteFile) -> Path:
        """Return the path of this version in the cache, once it is complete."""
        digest = _digest(f"{remote.address}\0{remote.size_bytes}\0{remote.stamp}")
        base = remote.address.name[-60:]
        safe = "".join(c if c.isalnum() or c in "._-" else "_" for c in base)
        return self.folder / digest[:2] / f"{digest}-{safe}"

    def sidecar(self, address: Address) -> Path:
        """Return the path of the table of a remote shard, which outlives the shard's eviction."""
        return self.folder / "index" / f"{_digest(str(address))}{SIDECAR_SUFFIX}"

    def fetch(self, remote: RemoteFile) -> Path:
        """Return the local path of a remote shard, transferred if it is not there.

        Raises:
            ShardError: If the shard is missing, changed, or cannot be transferred.
            OSError: If the disk is full.
        """
        path = self.path_of(remote)
        if self._touch(path, remote):
            return path
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{path}.lock"):
            if self._touch(path, remote):
                return path
            self._room.make(max(remote.size_bytes, 0))
            part = Path(f"{path}{PART_SUFFIX}")
            transfer(remote.address, remote.size_bytes, part, self.retries)
            self._check(remote, part)
            wait_for_disk(part)  # the size alone tells later runs that the shard is complete
            part.replace(path)
            if remote.size_bytes < 0:
                self._room.make(0, keep=path)
        return path

    def open(self, remote: RemoteFile) -> int:
        """Open a descriptor of the shard; it stays readable when the shard is evicted."""
        while True:
            path = self.fetch(remote)
            # Another process may evict the shard between the two lines.
            with contextlib.suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY)

    def uses_ranges(self, remote: RemoteFile) -> bool:
        """Return whether only parts of a shard are transferred."""
        return (
            self.ranges
            and remote.size_bytes > 0
            and _host(remote.address) not in self._without_ranges
            and not self._touch(self.path_of(remote), remote)
        )

    def open_partial(self, remote: RemoteFile) -> PartialFile:
        """Open the parts of a remote shard that are in the cache.

        Raises:
            ShardError: If the shard is missing, or changed since it was indexed.
        """
        self._check_version(remote)
        path = Path(f"{self.path_of(remote)}{PARTIAL_SUFFIX}")
        partial = PartialFile(path, remote.size_bytes)
        os.utime(path)
        return partial

    def fill(
        self, remote: RemoteFile, partial: PartialFile, spans: Sequence[tuple[int, int]]
    ) -> None:
        """Transfer the blocks of some spans that are not in the cache.

        Raises:
            RangesIgnored: If the server does not serve ranges.
            ShardError: If the shard is missing, changed, or cannot be transferred.
            OSError: If the disk is full.
        """
        with partial.lock:
            partial.open_again()  # another process may have evicted it
            if not (ranges := partial.missing(spans)):
                return
            self._room.reserve(sum(end - start for start, end in ranges))
            partial.open_again()  # and so may this one have
            ranges = split_ranges(partial.missing(spans), _LARGEST_RANGE_BYTES)
            host = _host(remote.address)
            try:
                parts = read_ranges(
                    remote.address,
                    ranges,
                    remote.size_bytes,
                    self.retries,
                    probe=host not in self._with_ranges,
                )
            except RangesIgnored:
                self._without_ranges.add(host)
                _LOG.warning(
                    "%s: the server does not serve ranges; complete shards are transferred",
                    remote.address,
                )
                raise
            self._with_ranges.add(host)
            self._check_version(remote)
            for (start, _), data in zip(ranges, parts, strict=True):
                partial.write(start, data)

    def read_parts(self, remote: RemoteFile, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read some ranges, without the cache; see ``fill`` for errors."""
        return read_ranges(remote.address, ranges, remote.size_bytes, self._early_retries)

    def _touch(self, path: Path, remote: RemoteFile) -> bool:
        try:
            status = path.stat()
        except FileNotFoundError:
            return False
        if remote.size_bytes >= 0 and status.st_size != remote.size_bytes:
            return False
        with contextlib.suppress(FileNotFoundError):
            os.utime(path)
        return True

    def _check(self, remote: RemoteFile, part: Path) -> None:
        size_bytes = part.stat().st_size
        if remote.size_bytes >= 0 and size_bytes != remote.size_bytes:
            part.unlink()
            raise ShardError(
                f"{remote.address}: expected {remote.size_bytes} bytes, got {size_bytes}; "
                f"did the shard change?"
            )
        try:
            self._check_version(remote)
        except ShardError:
            part.unlink()
            raise

    def _check_version(self, remote: RemoteFile) -> None:
        """Compare the version with that of the server."""
        if remote.stamp and (now := _stat(remote.address, self.retries)) != remote:
            raise ShardError(
                f"{remote.address}: changed while the run was reading it: indexed as "
                f"{remote.stamp} with {remote.size_bytes} bytes, now {now.stamp} with "
                f"{now.size_bytes}; index it again"
            )


@cache
def default_cache() -> ShardCache:
    """Return the cache that is used if none is specified."""
    return ShardCache()


def read_small_file(source: Address, cache: ShardCache | None = None) -> bytes | None:
    """Read a small local or remote file."""
    if not source.is_local:
        return (cache or default_cache()).read_small(source)
    try:
        return source.path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{source}: cannot be read: {reason}") from error


def _stat(address: Address, retries: Retries) -> RemoteFile:
    size_bytes, stamp, _ = stat_remote(address, retries)
    return RemoteFile(address, size_bytes, stamp)


def _host(address: Address) -> str:
    return "/".join(address.text.split("/")[:3])


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
