"""Read the raw members of samples in place."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.open_files import OpenShard, OpenShards, RangedShard, as_shard_error
from clipkit.data.shards.shard_table import ShardTable
from clipkit.data.storage.prefetch import Prefetcher
from clipkit.data.storage.remote import SYSTEM_ERRNOS
from clipkit.errors import ShardError

# Network file systems have short failures (a stale handle, an input/output error).
_RETRY_SECONDS: Final = (0.1, 1.0)
# Bytes between two members that are read rather than skipped: headers, long names, a small member.
_GAP_BYTES: Final = 2**14


@dataclass(frozen=True, slots=True)
class RawSample:
    """One sample as it is stored in its shard.

    Args:
        key: Name of the sample.
        members: Bytes of its files by extension, in the order of the tar.
        shard: URL of the shard.
        index: Position in the shard.
    """

    key: str
    members: dict[str, bytes]
    shard: str
    index: int


@dataclass(frozen=True, slots=True)
class _Transfer:
    """Transfer of a shard: completely, or the parts with some samples, without some members."""

    shard: int
    samples: tuple[int, ...] = ()
    leave_out: frozenset[str] = frozenset()


@final
class ShardReader:
    """Reads samples in any order from local shards or cached copies of remote ones.

    Safe to use from several threads; a copy in another process opens its own files.

    Args:
        index: Index of the shards.

    Examples:
        >>> reader = ShardReader(ShardIndex.from_urls("data/train"))
        >>> reader.read(7).members["txt"]
        b'a yellow square number 7'
    """

    def __init__(self, index: ShardIndex) -> None:
        self._index = index
        self._shards = OpenShards(index)
        self._bad: dict[int, str] = {}
        self.num_samples = index.num_samples
        self.kept = index.kept
        self.is_local = all(shard.address.is_local for shard in index.shards)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_prefetcher"}

    def mark_bad(self, shard: int, reason: str) -> None:
        """Refuse all further reads of a shard."""
        self._bad[shard] = reason

    def url_of(self, sample_id: int) -> str:
        """Return the URL of a sample's shard."""
        return self._index.shards[self._index.locate(sample_id)[0]].url

    def read(self, sample_id: int, leave_out: Collection[str] = ()) -> RawSample:
        """Read the members of a sample.

        Args:
            sample_id: Position of the sample in the data set.
            leave_out: Extensions of members that are not read.

        Raises:
            ShardError: If the shard is missing, damaged, or has changed since it was indexed.
            OSError: If this machine is out of files, memory or disk.
        """
        shard, index = self._index.locate(sample_id)
        url = self._index.shards[shard].url
        opened = self._open(shard)
        spans = opened.table.members(index)
        wanted = {name: span for name, span in spans.items() if name not in leave_out}
        read: dict[str, bytes] = {}
        for part in neighbours(wanted):
            read |= self._members(shard, url, part)
        members = {name: read[name] for name in wanted}
        return RawSample(opened.table.key(index), members, url, index)

    def table(self, shard: int) -> ShardTable:
        """Return the table of a shard.

        Raises:
            ShardError: If the shard is missing, damaged, or has changed since it was indexed.
        """
        return self._open(shard).table

    def known_table(self, shard: int) -> ShardTable | None:
        """Return the table of a shard, unless it would have to be transferred: then None.

        Raises:
            ShardError: If a local shard is missing, damaged, or has changed since it was indexed.
        """
        return self._shards.known_table(shard)

    def prefetch(
        self,
        sample_ids: Int64[np.ndarray, " B"],
        leave_out: Collection[str] = (),
        *,
        wait: bool = False,
    ) -> None:
        """Transfer the remote shards of some samples in the background, or parts of them.

        Args:
            sample_ids: Positions of the samples in the data set.
            leave_out: Extensions of members that will not be read.
            wait: Whether to return when parts of shards have been transferred. Complete shards are
                waited for by ``read``.
        """
        cache = self._shards.cache
        shards = np.searchsorted(self._index.starts, sample_ids, side="right") - 1
        complete, parts = [], []
        for shard in np.unique(shards).tolist():
            if self._index.shards[shard].address.is_local:
                continue
            remote = self._shards.remote(shard)
            if cache.uses_ranges(remote):
                samples = tuple(sample_ids[shards == shard].tolist())
                parts.append(_Transfer(shard, samples, frozenset(leave_out)))
            elif not cache.path_of(remote).exists():
                complete.append(_Transfer(shard))
        self._prefetcher.request(complete)
        self._prefetcher.request(parts, wait=wait)

    @cached_property
    def _prefetcher(self) -> Prefetcher[_Transfer]:
        return Prefetcher(self._transfer)

    def _transfer(self, job: _Transfer) -> None:
        """Transfer a complete shard, or the parts with some of its samples."""
        if not job.samples:
            self._shards.cache.fetch(self._shards.remote(job.shard))
            return
        opened = self._shards.get(job.shard)
        if isinstance(opened, RangedShard):
            start = int(self._index.starts[job.shard])
            members = [opened.table.members(sample - start) for sample in job.samples]
            spans = [
                span for each in members for name, span in each.items() if name not in job.leave_out
            ]
            opened.fill([(offset, offset + size) for offset, size in spans])

    def _members(
        self, shard: int, url: str, spans: Mapping[str, tuple[int, int]]
    ) -> dict[str, bytes]:
        """Read some members in one call."""
        start = min(offset for offset, _ in spans.values())
        end = max(offset + size for offset, size in spans.values())
        data = self._pread(shard, url, start, end)
        if data is None:
            self._bad[shard] = f"{url}: changed while the run was reading it; index it again"
            raise ShardError(self._bad[shard])
        return {
            extension: data[offset - start : offset - start + size]
            for extension, (offset, size) in spans.items()
        }

    def _pread(self, shard: int, url: str, start: int, end: int) -> bytes | None:
        """Return the bytes; None if the file has changed. Short failures are retried."""
        for wait_seconds in (*_RETRY_SECONDS, None):
            try:
                return self._open(shard).read(start, end)
            except ShardError as error:
                self._bad[shard] = str(error)
                raise
            except OSError as error:
                if wait_seconds is None or error.errno in SYSTEM_ERRNOS:
                    raise as_shard_error(error, url) from error
                self._shards.forget(shard)
                time.sleep(wait_seconds)
        raise AssertionError("unreachable")

    def _open(self, shard: int) -> OpenShard | RangedShard:
        if shard in self._bad:
            raise ShardError(self._bad[shard])
        try:
            return self._shards.get(shard)
        except ShardError as error:
            self._bad[shard] = str(error)
            raise


def neighbours(spans: Mapping[str, tuple[int, int]]) -> list[dict[str, tuple[int, int]]]:
    """Group members that are read in one call: a link's contents may be far away in the tar.

    Examples:
        >>> neighbours({"txt": (9_000_000, 5), "jpg": (512, 700), "cls": (2048, 1)})
        [{'jpg': (512, 700), 'cls': (2048, 1)}, {'txt': (9000000, 5)}]
    """
    groups: list[dict[str, tuple[int, int]]] = []
    end = 0
    for name, (offset, size) in sorted(spans.items(), key=lambda item: item[1]):
        if not groups or offset > end + _GAP_BYTES:
            groups.append({})
        groups[-1][name] = (offset, size)
        end = max(end, offset + size)
    return groups
