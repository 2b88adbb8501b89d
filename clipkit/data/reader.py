"""The raw members of one sample, read in place."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.cache import RemoteFile, ShardCache, default_cache
from clipkit.data.index import Shard, ShardIndex
from clipkit.data.prefetch import Prefetcher
from clipkit.data.remote import SYSTEM_ERRNOS
from clipkit.data.tables import SIDECAR_SUFFIX, ShardTable, load_table, save_table, scan_shard
from clipkit.data.urls import is_local, local_path
from clipkit.errors import ShardError

_OPEN_SHARDS: Final = 64
# Network file systems have short failures (a stale handle, an input/output error).
_RETRY_SECONDS: Final = (0.1, 1.0)


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample as it lies in its shard.

    Args:
        key: Its name.
        members: Its files by extension, in the order of the tar.
        shard: URL of its shard.
        index: Its position in the shard.
    """

    key: str
    members: dict[str, bytes]
    shard: str
    index: int


@final
class _OpenShard:
    """A file descriptor and the table of what it holds; closed when nobody uses it any more."""

    def __init__(self, descriptor: int, table: ShardTable, stamp: str) -> None:
        self.descriptor = descriptor
        self.table = table
        self.stamp = stamp

    def __del__(self) -> None:
        os.close(self.descriptor)


@final
class ShardReader:
    """Reads samples at random from local shards, or from whole cached copies of remote ones.

    Safe to use from several threads; a copy in another process opens its own files.

    Args:
        index: The shards.
        cache: Where remote shards are kept; None for the default cache.
    """

    def __init__(self, index: ShardIndex, cache: ShardCache | None = None) -> None:
        self._index = index
        self._cache = cache
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()
        self._bad: dict[int, str] = {}
        self._prefetcher: Prefetcher | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_index": self._index, "_cache": self._cache, "_bad": self._bad}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_index"], state["_cache"])
        self._bad = state["_bad"]

    def mark_bad(self, shard: int, reason: str) -> None:
        """Never try this shard again."""
        self._bad[shard] = reason

    def url_of(self, sample_id: int) -> str:
        """The shard of a sample."""
        return self._index.shards[self._index.locate(sample_id)[0]].url

    def read(self, sample_id: int) -> RawSample:
        """All members of a sample.

        Raises:
            ShardError: If its shard is missing, was changed since it was indexed, or is damaged.
            OSError: If this machine is out of files, memory or disk.
        """
        shard, index = self._index.locate(sample_id)
        url = self._index.shards[shard].url
        for wait_seconds in (*_RETRY_SECONDS, None):
            opened = self._shard(shard)
            spans = opened.table.members(index)
            start = min(offset for offset, _ in spans.values())
            end = max(offset + size for offset, size in spans.values())
            try:
                data = os.pread(opened.descriptor, end - start, start)
                stamp = str(os.fstat(opened.descriptor).st_mtime_ns)
                break
            except OSError as error:
                self._forget(shard)
                if wait_seconds is None or error.errno in SYSTEM_ERRNOS:
                    raise self._as_shard_error(error, url) from error
                time.sleep(wait_seconds)
        if len(data) < end - start or (opened.stamp and stamp != opened.stamp):
            self._bad[shard] = f"{url}: changed while the run was reading it; index it anew"
            raise ShardError(self._bad[shard])
        members = {
            extension: data[offset - start : offset - start + size]
            for extension, (offset, size) in spans.items()
        }
        return RawSample(opened.table.key(index), members, url, index)

    def prefetch(self, sample_ids: Int64[np.ndarray, " B"]) -> None:
        """Have the remote shards of these samples fetched in the background."""
        shards = np.unique(np.searchsorted(self._index.starts, sample_ids, side="right") - 1)
        wanted = [
            _remote_file(self._index.shards[shard])
            for shard in shards.tolist()
            if shard not in self._open and not is_local(self._index.shards[shard].url)
        ]
        if wanted:
            if self._prefetcher is None:
                self._prefetcher = Prefetcher(self._shard_cache())
            self._prefetcher.request(wanted)

    def table(self, shard: int) -> ShardTable:
        """Where the samples of a shard lie.

        Raises:
            ShardError: As ``read``.
        """
        return self._shard(shard).table

    def _shard(self, shard: int) -> _OpenShard:
        if shard in self._bad:
            raise ShardError(self._bad[shard])
        with self._lock:
            opened = self._open.get(shard)
            if opened is None:
                try:
                    opened = self._open_shard(self._index.shards[shard])
                except ShardError as error:
                    self._bad[shard] = str(error)
                    raise
                self._open[shard] = opened
                while len(self._open) > _OPEN_SHARDS:
                    self._open.popitem(last=False)
            self._open.move_to_end(shard)
            return opened

    def _shard_cache(self) -> ShardCache:
        return self._cache if self._cache is not None else default_cache()

    def _forget(self, shard: int) -> None:
        with self._lock:
            self._open.pop(shard, None)

    def _open_shard(self, shard: Shard) -> _OpenShard:
        if is_local(shard.url):
            return self._open_local(shard)
        cache = self._shard_cache()
        remote = _remote_file(shard)
        sidecar = cache.sidecar(shard.url)
        descriptor = cache.open(remote)
        try:
            table = load_table(sidecar, shard.size_bytes, shard.stamp)
            if table is None or len(table) != shard.num_samples:
                table = scan_shard(cache.fetch(remote), shard.url, shard.num_samples)
                save_table(table, sidecar, shard.size_bytes, shard.stamp)
        except BaseException:
            os.close(descriptor)
            raise
        return _OpenShard(descriptor, table, "")

    def _open_local(self, shard: Shard) -> _OpenShard:
        path = local_path(shard.url)
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise self._as_shard_error(error, shard.url) from error
        try:
            status = os.fstat(descriptor)
            stamp = str(status.st_mtime_ns)
            if (status.st_size, stamp) != (shard.size_bytes, shard.stamp):
                raise ShardError(
                    f"{shard.url}: changed since it was indexed: {shard.size_bytes} bytes then, "
                    f"{status.st_size} bytes now; index it anew"
                )
            sidecar = path.with_name(path.name + SIDECAR_SUFFIX)
            table = load_table(sidecar, shard.size_bytes, shard.stamp)
            if table is None or len(table) != shard.num_samples:
                table = scan_shard(path, shard.url, shard.num_samples)
        except BaseException:
            os.close(descriptor)
            raise
        return _OpenShard(descriptor, table, stamp)

    @staticmethod
    def _as_shard_error(error: OSError, url: str) -> Exception:
        if error.errno in SYSTEM_ERRNOS:
            return error
        if isinstance(error, FileNotFoundError):
            return ShardError(f"{url}: vanished since it was indexed")
        return ShardError(f"{url}: cannot be read: {error.strerror}")


def _remote_file(shard: Shard) -> RemoteFile:
    return RemoteFile(shard.url, shard.size_bytes, shard.stamp)
