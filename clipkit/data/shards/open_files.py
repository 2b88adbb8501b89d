"""Shards that are open for reading: file descriptors and tables of members."""

from __future__ import annotations

import logging
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, final

from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.remote_tables import read_remote_table
from clipkit.data.shards.shard import Shard
from clipkit.data.shards.shard_table import ShardTable, scan_shard
from clipkit.data.shards.sidecars import keep_table, load_table
from clipkit.data.storage.cache import SIDECAR_SUFFIX, RemoteFile, ShardCache, default_cache
from clipkit.data.storage.remote import SYSTEM_ERRNOS, RangesIgnored
from clipkit.errors import ShardError

_LOG = logging.getLogger(__name__)
_OPEN_FILES: Final = 128
# Some 20 bytes each: tables stay after their files are closed, because random reading over many
# shards would load them again and again.
_KEPT_TABLE_MEMBERS: Final = 2**22


@final
class OpenShard:
    """A file descriptor, closed after its last use, and the table of the samples.

    Args:
        descriptor: Descriptor that is open for reading; this object closes it.
        table: Positions of the samples.
        stamp: Time of change at opening; "" if it does not matter (cached copies).
    """

    def __init__(self, descriptor: int, table: ShardTable, stamp: str) -> None:
        self.descriptor = descriptor
        self.table = table
        self.stamp = stamp

    def __del__(self) -> None:
        os.close(self.descriptor)

    def read(self, start: int, end: int) -> bytes | None:
        """Return bytes ``start`` to ``end``; None if the file has changed since it was opened."""
        data = os.pread(self.descriptor, end - start, start)
        stamp = str(os.fstat(self.descriptor).st_mtime_ns) if self.stamp else ""
        return data if len(data) == end - start and stamp == self.stamp else None


@final
class RangedShard:
    """A remote shard of which only those parts are transferred that are read.

    Args:
        cache: Cache of the parts.
        remote: The shard.
        table: Positions of the samples.

    Raises:
        ShardError: If the shard is missing, or changed since it was indexed.
    """

    def __init__(self, cache: ShardCache, remote: RemoteFile, table: ShardTable) -> None:
        self.table = table
        self._cache = cache
        self._remote = remote
        self._parts = cache.open_partial(remote)
        self._complete: OpenShard | None = None

    def fill(self, spans: Sequence[tuple[int, int]]) -> None:
        """Transfer some spans; the complete shard if the server does not serve ranges."""
        if self._complete is None:
            try:
                self._cache.fill(self._remote, self._parts, spans)
            except RangesIgnored:
                self._complete = OpenShard(self._cache.open(self._remote), self.table, "")

    def read(self, start: int, end: int) -> bytes | None:
        """Return bytes ``start`` to ``end``."""
        data = None
        while data is None:  # a block may be damaged, or be transferred by another process
            if self._complete is not None:
                return self._complete.read(start, end)
            data = self._parts.read(start, end)
            if data is None:
                self.fill([(start, end)])
        return data


@final
class OpenShards:
    """Opens shards and keeps the last used ones open; safe for threads.

    Args:
        index: Index of the shards.
    """

    def __init__(self, index: ShardIndex) -> None:
        self._index = index
        self._lock = threading.Lock()
        self._files: OrderedDict[int, OpenShard | RangedShard] = OrderedDict()
        self._tables: OrderedDict[int, ShardTable] = OrderedDict()
        self._members = 0
        self._versions: dict[int, RemoteFile] = {}
        self._stamps: dict[int, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self._index}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["index"])

    @property
    def cache(self) -> ShardCache:
        """Cache of remote shards."""
        return self._index.cache if self._index.cache is not None else default_cache()

    def get(self, number: int) -> OpenShard | RangedShard:
        """Return an open shard."""
        with self._lock:
            found = self._files.get(number)
            if found is not None:
                self._files.move_to_end(number)
                return found
        # Not under the lock: a transfer must not block reads of other shards.
        shard = self._index.shards[number]
        is_local = shard.address.is_local
        found = self._open_local(number, shard) if is_local else self._open_remote(number)
        with self._lock:
            # Another thread may have been faster; its parts of the shard have a lock.
            found = self._files.setdefault(number, found)
            while len(self._files) > _OPEN_FILES:
                self._files.popitem(last=False)
        return found

    def known_table(self, number: int) -> ShardTable | None:
        """Return the table of a shard without a transfer; None if it is not on this machine."""
        shard = self._index.shards[number]
        if shard.address.is_local:
            return self.get(number).table
        table = self._kept(number)
        if table is None and shard.digest:  # then indexing has read the table
            table = load_table(self.cache.sidecar(shard.address), shard.size_bytes, shard.stamp)
        return None if table is None or table.digest() != shard.digest else table

    def forget(self, number: int) -> None:
        """Open this shard again at the next access."""
        with self._lock:
            self._files.pop(number, None)

    def _open_local(self, number: int, shard: Shard) -> OpenShard:
        path = shard.address.path
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise as_shard_error(error, shard.url) from error
        try:
            status = os.fstat(descriptor)
            stamp = str(status.st_mtime_ns)
            # A copy of the data has another time: then its samples are compared, at first opening.
            is_copy = stamp != shard.stamp and number not in self._stamps and shard.digest != ""
            known = stamp if is_copy else self._stamps.get(number, shard.stamp)
            if (status.st_size, stamp) != (shard.size_bytes, known):
                raise ShardError(
                    f"{shard.url}: changed since it was indexed: {shard.size_bytes} bytes then, "
                    f"{status.st_size} bytes now; index it again"
                )
            table = self._kept(number)
            if table is None:
                table = self._local_table(shard, stamp)
                self._keep(number, table)
            if is_copy and table.digest() != shard.digest:
                raise _other_samples(shard)
            self._stamps[number] = stamp
        except BaseException:
            os.close(descriptor)
            raise
        return OpenShard(descriptor, table, stamp)

    def _local_table(self, shard: Shard, stamp: str) -> ShardTable:
        """Return the table next to a shard, or from a scan of its headers."""
        path = shard.address.path
        sidecar = path.with_name(path.name + SIDECAR_SUFFIX)
        table = load_table(sidecar, shard.size_bytes, stamp)
        if table is None or len(table) != shard.num_samples:
            table = scan_shard(path, shard.url, shard.num_samples)
            if sidecar.exists():  # damaged or of another time: else every process would scan it
                keep_table(table, sidecar, shard.size_bytes, stamp)
        return table

    def _open_remote(self, number: int) -> OpenShard | RangedShard:
        shard, remote = self._index.shards[number], self.remote(number)
        table = self._kept(number)
        if table is None:
            table = self._remote_table(shard, remote)
            self._keep(number, table)
        if self.cache.uses_ranges(remote):
            return RangedShard(self.cache, remote, table)
        return OpenShard(self.cache.open(remote), table, "")

    def remote(self, number: int) -> RemoteFile:
        """Return the version of a remote shard; the index file of a moved data set has none."""
        shard = self._index.shards[number]
        indexed = RemoteFile(shard.address, shard.size_bytes, shard.stamp)
        if shard.stamp or shard.size_bytes < 0 or not shard.digest:
            return indexed
        remote = self._versions.get(number)
        if remote is None:
            remote = self._versions[number] = self.cache.stat(shard.address)
        if remote.size_bytes != shard.size_bytes:
            raise ShardError(
                f"{shard.url}: expected {shard.size_bytes} bytes, as in its index, got "
                f"{remote.size_bytes}; index it again"
            )
        return remote

    def _remote_table(self, shard: Shard, remote: RemoteFile) -> ShardTable:
        """Return the table in the cache, or next to the shard, or from a scan of its headers."""
        sidecar = self.cache.sidecar(shard.address)
        table = load_table(sidecar, remote.size_bytes, remote.stamp)
        if self.cache.uses_ranges(remote) and (table is None or len(table) != shard.num_samples):
            table = read_remote_table(self.cache, remote)
        if table is None or len(table) != shard.num_samples:
            table = scan_shard(self.cache.fetch(remote), shard.url, shard.num_samples)
            refusal = keep_table(table, sidecar, remote.size_bytes, remote.stamp)
            if refusal is not None:
                _LOG.warning("%s: index file not written: %s", sidecar, refusal)
        if shard.digest not in ("", table.digest()):
            raise _other_samples(shard)
        return table

    def _kept(self, number: int) -> ShardTable | None:
        with self._lock:
            table = self._tables.get(number)
            if table is not None:
                self._tables.move_to_end(number)
            return table

    def _keep(self, number: int, table: ShardTable) -> None:
        with self._lock:
            if number not in self._tables:
                self._members += len(table.offsets)
            self._tables[number] = table
            while self._members > _KEPT_TABLE_MEMBERS and len(self._tables) > 1:
                _, dropped = self._tables.popitem(last=False)
                self._members -= len(dropped.offsets)


def _other_samples(shard: Shard) -> ShardError:
    return ShardError(f"{shard.url}: other samples than in its index; index it again")


def as_shard_error(error: OSError, url: str) -> Exception:
    """Convert an error of the operating system that is about a shard; return others as they are."""
    if error.errno in SYSTEM_ERRNOS:
        return error
    if isinstance(error, FileNotFoundError):
        return ShardError(f"{url}: vanished since it was indexed")
    return ShardError(f"{url}: cannot be read: {error.strerror}")
