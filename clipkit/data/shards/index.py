"""The index of a data set: its shards, their numbers of samples, and who is where."""

from __future__ import annotations

import hashlib
import logging
import stat
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.shards.counts import counts_by_folder, known_counts, named_shards
from clipkit.data.shards.lost_shards import lost_shards
from clipkit.data.shards.shard_table import scan_shard
from clipkit.data.shards.sidecars import Summary, keep_table, load_summary
from clipkit.data.storage.cache import SIDECAR_SUFFIX, ShardCache, default_cache
from clipkit.data.storage.urls import Address, Patterns
from clipkit.errors import DataError, ShardError

_LOG = logging.getLogger(__name__)
_SCAN_THREADS: Final = 16
_NAMED_ERRORS: Final = 5


@dataclass(frozen=True, slots=True)
class Shard:
    """One tar.

    Args:
        address: Where it is.
        num_samples: How many samples it holds.
        size_bytes: Its length; -1 where the server does not say.
        stamp: Time of change (local, in ns) or entity tag (remote); "" where unknown.
        digest: ``ShardTable.digest`` of its table; "" where only the number of samples is known.
    """

    address: Address
    num_samples: int
    size_bytes: int = -1
    stamp: str = ""
    digest: str = ""

    @property
    def url(self) -> str:
        """The address as text, for messages and records."""
        return str(self.address)


@final
class ShardIndex:
    """Every shard of a data set and how many samples each holds.

    A sample's id is its position in the concatenation of all shards. Where its members lie is
    kept in one table a shard, read when it is needed.

    Args:
        shards: The shards, in order.
        faults: ``(url, reason)`` of shards that were left out.
        cache: Local cache of the remote shards; None for the default cache.

    Examples:
        >>> ShardIndex.from_urls("data/train/{00000..00001}.tar").num_samples
        9
    """

    def __init__(
        self,
        shards: Sequence[Shard],
        faults: Sequence[tuple[str, str]] = (),
        cache: ShardCache | None = None,
    ) -> None:
        if not shards:
            raise ShardError("an index needs at least one shard")
        self.shards = tuple(shards)
        self.faults = tuple(faults)
        self.cache = cache
        self.counts: Int64[np.ndarray, " shards"] = np.array(
            [shard.num_samples for shard in self.shards], dtype=np.int64
        )
        self.starts: Int64[np.ndarray, " shards+1"] = np.concatenate(
            [[0], np.cumsum(self.counts)]
        ).astype(np.int64)

    @classmethod
    def from_urls(
        cls,
        urls: Patterns,
        *,
        counts: str | Path | Mapping[str, int] | None = None,
        allow_pipe: bool = False,
        max_bad_shards: int = 0,
        write_sidecars: bool = True,
        cache: ShardCache | None = None,
        on_shard: Callable[[Shard], None] | None = None,
    ) -> ShardIndex:
        """Index shards: from their sidecar files where those are fresh, else by a scan.

        Args:
            urls: One pattern or several: braces (``{000..127}``), globs, folders, ``"::"`` unions,
                a wids ``.json``, and any scheme that fsspec opens.
            counts: Known numbers of samples, by base name of the shard, or the file that holds
                them; None looks for ``sizes.json`` and energon's ``.info.json`` beside the shards.
                A scan is compared with them; remote shards are not scanned then. Where a folder or
                glob is given, a shard that these files name and that is not there is missing.
            allow_pipe: Whether a pattern may be ``pipe:COMMAND``, which runs it.
            max_bad_shards: How many broken shards are left out (and named) before it is an error.
            write_sidecars: Whether a scan is kept beside its shard (in the cache for remote ones).
            cache: Local cache of remote shards, here and for readers of the index; None for the
                default cache.
            on_shard: Called after each shard, for a progress bar.

        Returns:
            The index.

        Raises:
            ShardError: If no shards match, or more than ``max_bad_shards`` are missing, truncated,
                damaged, empty, or have another count than expected.
        """
        names, listed = named_shards(urls, cache, allow_pipe=allow_pipe)
        beside = counts_by_folder(names, listed, cache) if counts is None else {}
        known = known_counts(names, counts, listed, beside, cache)
        indexer = _Indexer(known, write_sidecars, cache)
        shards: list[Shard] = []
        faults = lost_shards(urls, names, beside)
        num_shards = len(names) + len(faults)
        with ThreadPoolExecutor(max_workers=min(_SCAN_THREADS, len(names))) as pool:
            for name, result in zip(names, pool.map(indexer, names), strict=True):
                if isinstance(result, Shard):
                    shards.append(result)
                    if on_shard is not None:
                        on_shard(result)
                else:
                    faults.append((str(name), str(result)))
        indexer.report_unkept()
        _check_faults(faults, max_bad_shards, num_shards)
        return cls(shards, faults, cache)

    def __len__(self) -> int:
        return self.num_samples

    @property
    def num_samples(self) -> int:
        """Samples in all shards."""
        return int(self.starts[-1])

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the shards' names, sizes and counts, in order; moving a folder keeps it."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(
                f"{shard.address.name}\0{shard.num_samples}\0{shard.size_bytes}\n".encode()
            )
        return digest.hexdigest()[:32]

    @cached_property
    def digest(self) -> str:
        """A hash of all keys, extensions and member sizes, in order; "" if any is unknown.

        A shard's table is unknown where its number of samples comes from a counts file and it is
        not on this machine. What the local cache holds of such a shard does not count: the digest
        is the same on every rank.
        """
        if any(not shard.digest for shard in self.shards):
            return ""
        return hashlib.sha256("\n".join(s.digest for s in self.shards).encode()).hexdigest()[:32]

    def locate(self, sample_id: int) -> tuple[int, int]:
        """The shard of a sample and its position inside.

        Raises:
            DataError: If there is no such sample.
        """
        if not 0 <= sample_id < self.num_samples:
            raise DataError(f"sample {sample_id}: expected 0 to {self.num_samples - 1}")
        shard = int(np.searchsorted(self.starts, sample_id, side="right")) - 1
        return shard, sample_id - int(self.starts[shard])


@final
class _Indexer:
    """Indexes one shard; returns what is wrong with a broken one, so that all are named."""

    def __init__(
        self, known: Mapping[str, int], write_sidecars: bool, cache: ShardCache | None
    ) -> None:
        self._known = known
        self._write_sidecars = write_sidecars
        self._cache = cache
        self._unkept: list[tuple[Path, OSError]] = []

    def __call__(self, address: Address) -> Shard | ShardError:
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
        if expected is not None:
            return Shard(address, expected, remote.size_bytes, remote.stamp)
        known = load_summary(sidecar, remote.size_bytes, remote.stamp)
        if known is None:
            path = cache.fetch(remote)
            known = self._scan(path, str(address), None, sidecar, remote.size_bytes, remote.stamp)
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
    """Length in bytes and time of change of a local shard."""
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


def _check_faults(faults: Sequence[tuple[str, str]], allowed: int, num_shards: int) -> None:
    if not faults:
        return
    if len(faults) > allowed or len(faults) == num_shards:
        if len(faults) == 1:
            raise ShardError(faults[0][1])
        named = "\n  ".join(reason for _, reason in faults[:_NAMED_ERRORS])
        more = f"\n  and {len(faults) - _NAMED_ERRORS} more" if len(faults) > _NAMED_ERRORS else ""
        raise ShardError(
            f"{len(faults)} of {num_shards} shards cannot be used "
            f"(allowed: max_bad_shards={allowed}):\n  {named}{more}"
        )
    for _, reason in faults:
        _LOG.warning("shard left out: %s", reason)
