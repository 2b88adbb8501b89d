"""Index one shard: from its sidecar file if it is up to date, else by a scan."""

from __future__ import annotations

import logging
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final, final

from clipkit.data.shards.remote_tables import read_remote_table
from clipkit.data.shards.shard import Shard
from clipkit.data.shards.shard_table import scan_shard
from clipkit.data.shards.sidecars import Summary, keep_table, load_summary
from clipkit.data.storage.cache import SIDECAR_SUFFIX, ShardCache, default_cache
from clipkit.data.storage.urls import Address
from clipkit.errors import ShardError

_LOG: Final = logging.getLogger(__name__)


@final
class Indexer:
    """Indexes one shard; returns the error of a broken one, so that all are reported.

    Args:
        known: Numbers of samples of counts files, by base name of the shard.
        write_sidecars: Whether a scan is stored.
        read_tables: Whether the tables of remote shards with a known number are read, too.
        cache: Local cache of remote shards; None for the default cache.
    """

    def __init__(
        self,
        known: Mapping[str, int],
        write_sidecars: bool,
        read_tables: bool,
        cache: ShardCache | None,
    ) -> None:
        self._known = known
        self._write_sidecars = write_sidecars
        self._read_tables = read_tables
        self._cache = cache
        self._unkept: list[tuple[Path, OSError]] = []

    def __call__(self, address: Address) -> Shard | ShardError:
        """Return the shard, or what is wrong with it."""
        expected = self._known.get(address.name)
        index = self._local if address.is_local else self._remote
        try:
            return index(address, expected)
        except ShardError as error:
            return error

    def _local(self, address: Address, expected: int | None) -> Shard:
        path = address.path
        size_bytes, stamp = stat_shard(path, str(address))
        sidecar = path.with_name(path.name + SIDECAR_SUFFIX)
        known = load_summary(sidecar, size_bytes, stamp)
        if known is None or expected not in (None, known.num_samples):
            known = self._scan(path, str(address), expected, sidecar, size_bytes, stamp)
        return Shard(address, known.num_samples, size_bytes, stamp, known.digest)

    def _remote(self, address: Address, expected: int | None) -> Shard:
        cache = self._cache if self._cache is not None else default_cache()
        remote = cache.stat(address)
        sidecar = cache.sidecar(address)
        known = None
        if expected is None or self._read_tables:
            known = load_summary(sidecar, remote.size_bytes, remote.stamp)
            if known is None and (table := read_remote_table(cache, remote)) is not None:
                known = Summary(len(table), table.digest())
        if known is None and expected is not None:
            known = Summary(expected, "")
        if known is None:
            path = cache.fetch(remote)
            known = self._scan(path, str(address), None, sidecar, remote.size_bytes, remote.stamp)
        if expected not in (None, known.num_samples):
            raise ShardError(
                f"{address}: expected {expected} samples, as in its counts file, got "
                f"{known.num_samples} in its index file; correct the counts or index it again"
            )
        if known.num_samples == 0:
            raise ShardError(
                f"{address}: empty shard: its counts file lists 0 samples; leave it out"
            )
        return Shard(address, known.num_samples, remote.size_bytes, remote.stamp, known.digest)

    def _scan(
        self,
        path: Path,
        url: str,
        expected: int | None,
        sidecar: Path,
        size_bytes: int,
        stamp: str,
    ) -> Summary:
        table = scan_shard(path, url, expected)
        if self._write_sidecars:
            refusal = keep_table(table, sidecar, size_bytes, stamp)
            if refusal is not None:
                self._unkept.append((sidecar, refusal))
        return Summary(len(table), table.digest())

    def report_unkept(self) -> None:
        """Warn once per call about all sidecars that the disk refused."""
        if self._unkept:
            sidecar, error = self._unkept[0]
            _LOG.warning(
                "%d index files not written, such as %s: %s; their shards are scanned again "
                "next time",
                len(self._unkept), sidecar, error.strerror or error,
            )  # fmt: skip


def stat_shard(path: Path, url: str) -> tuple[int, str]:
    """Return size in bytes and time of change of a local shard."""
    try:
        status = path.stat()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ShardError(f"{url}: no such file") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ShardError(f"{url}: cannot be read: {reason}") from error
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
        raise ShardError(f"{url}: expected a file, got a pipe or device")
    return status.st_size, str(status.st_mtime_ns)
