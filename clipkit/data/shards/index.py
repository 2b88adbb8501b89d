"""The index of a data set: shards, numbers of samples, and positions of samples."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Int64

from clipkit.data.shards.counts import (
    checked_counts,
    counts_by_folder,
    known_counts,
    read_counts,
)
from clipkit.data.shards.indexing import Indexer
from clipkit.data.shards.lost_shards import check_faults, lost_shards
from clipkit.data.shards.masks.kept_samples import AllSamples, KeptSamples
from clipkit.data.shards.masks.sample_mask import MaskSummary, SampleMask
from clipkit.data.shards.named import named_shards
from clipkit.data.shards.shard import Shard
from clipkit.data.storage.cache import ShardCache
from clipkit.data.storage.urls import Patterns
from clipkit.errors import ConfigError, DataError, ShardError

_SCAN_THREADS: Final = 16


@final
class ShardIndex:
    """All shards of a data set and their numbers of samples.

    A sample's id is its position in the concatenation of all shards. The positions of its members
    are in one table per shard, which is read when it is needed.

    Args:
        shards: Shards, in order.
        faults: ``(url, reason)`` of each shard that was skipped.
        cache: Local cache of the remote shards; None for the default cache.

    Attributes:
        kept: The samples that streams give: all, or those that a mask keeps.
        mask: Facts about the mask; None if there is none.

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
        self.kept: KeptSamples = AllSamples(self.num_samples)
        self.mask: MaskSummary | None = None

    @classmethod
    def from_urls(
        cls,
        urls: Patterns,
        *,
        counts: str | Path | Mapping[str, int] | None = None,
        allow_pipe: bool = False,
        max_bad_shards: int = 0,
        write_sidecars: bool = True,
        read_tables: bool = False,
        cache: ShardCache | None = None,
        on_shard: Callable[[Shard], None] | None = None,
    ) -> ShardIndex:
        """Index shards: from sidecar files if they are up to date, else by a scan.

        Args:
            urls: One pattern or several: braces (``{000..127}``), globs, folders, ``"::"`` unions,
                a wids ``.json``, an ``.npz`` that ``clipkit shards index --output`` wrote, and any
                scheme that fsspec opens.
            counts: Numbers of samples, by base name of the shard, or the file that contains them;
                for other shards, and if None, ``sizes.json`` or energon's ``.info.json`` next to
                the shards. Scans are compared with them; remote shards with a count are not
                scanned. With a folder or glob, a shard that these files list and that does not
                exist is an error.
            allow_pipe: Whether a pattern may be ``pipe:COMMAND``, which runs the command.
            max_bad_shards: Largest number of broken shards that are skipped, with a message.
            write_sidecars: Whether a scan is stored next to its shard (in the cache for remote
                shards).
            read_tables: Whether the index files next to remote shards are read even if the counts
                are known: some 60 bytes per sample, for a ``digest`` of the data.
            cache: Local cache of remote shards, here and for readers of the index; None for the
                default cache.
            on_shard: Called after each shard, for a progress bar; None for no call.

        Returns:
            The index.

        Raises:
            ShardError: If no shards match, or more than ``max_bad_shards`` are missing, truncated,
                damaged, empty, or have another count than expected.
            DataError: If an index or counts file is damaged.
        """
        named = named_shards(urls, cache, allow_pipe=allow_pipe)
        names = [address for address in named.addresses if address not in named.indexed]
        given = (
            read_counts(counts, cache)
            if isinstance(counts, str | Path)
            else checked_counts((counts or {}).items(), "counts")
        )
        stored = counts_by_folder(names, {**named.counts, **given}, cache)
        known = known_counts(names, given, named.counts, stored)
        indexer = Indexer(known, write_sidecars, read_tables, cache)
        shards: list[Shard] = []
        faults = lost_shards(urls, names, stored)
        num_shards = len(named.addresses) + len(faults)
        with ThreadPoolExecutor(max_workers=min(_SCAN_THREADS, len(names) or 1)) as pool:
            scanned = pool.map(indexer, names)
            for name in named.addresses:
                result = named.indexed.get(name) or next(scanned)
                if isinstance(result, Shard):
                    shards.append(result)
                    if on_shard is not None:
                        on_shard(result)
                else:
                    faults.append((str(name), str(result)))
        indexer.report_unkept()
        check_faults(faults, max_bad_shards, num_shards)
        return cls(shards, faults, cache)

    def __len__(self) -> int:
        return self.num_samples

    @property
    def num_samples(self) -> int:
        """Number of samples in all shards."""
        return int(self.starts[-1])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of names, sizes and counts of the shards, in order, without the folder."""
        digest = hashlib.sha256()
        for shard in self.shards:
            digest.update(
                f"{shard.address.name}\0{shard.num_samples}\0{shard.size_bytes}\n".encode()
            )
        return digest.hexdigest()[:32]

    @cached_property
    def digest(self) -> str:
        """Hash of all keys, extensions and member sizes, in order; "" if any is unknown.

        A table is unknown if the number of samples is from a counts file and the shard is remote,
        unless ``from_urls`` was told to ``read_tables``.
        The local cache is ignored, so that the digest is the same on every rank.
        """
        if any(not shard.digest for shard in self.shards):
            return ""
        return hashlib.sha256("\n".join(s.digest for s in self.shards).encode()).hexdigest()[:32]

    @cached_property
    def kept_counts(self) -> Int64[np.ndarray, " kept_shards"]:
        """Number of kept samples of each shard that has any."""
        counts = np.diff(self.kept.num_before(self.starts))
        kept: Int64[np.ndarray, " kept_shards"] = counts[counts > 0]
        return kept

    def with_mask(self, mask: SampleMask) -> ShardIndex:
        """Return an index of the same shards, of which streams give the kept samples only.

        Ids stay those of all samples: ``num_samples``, ``counts`` and ``locate`` do not change.

        Args:
            mask: Mask of these data.

        Raises:
            ConfigError: If the index has a mask.
            DataError: If the mask is of other data, or keeps no sample.

        Examples:
            >>> index = ShardIndex.from_urls("data/train")
            >>> removed_by = np.arange(9, dtype=np.uint8) // 5
            >>> index.with_mask(SampleMask.of(index, removed_by, ["number above 4"])).kept.num_kept
            5
        """
        if self.mask is not None:
            raise ConfigError(
                f"{mask.name}: expected an index without a mask, got one with {self.mask.name}; "
                f"combine both: SampleMask.combine([first, second])"
            )
        mask.check(self)
        if mask.num_kept == 0:
            raise DataError(
                f"{mask.name}: keeps none of {mask.num_samples} samples (filters: "
                f"{', '.join(mask.filters)}); filter less"
            )
        masked = copy.copy(self)
        masked.__dict__.pop("kept_counts", None)
        masked.kept, masked.mask = mask.kept_samples(), mask.summary
        return masked

    def locate(self, sample_id: int) -> tuple[int, int]:
        """Return the shard of a sample and its position in the shard.

        Raises:
            DataError: If there is no such sample.
        """
        if not 0 <= sample_id < self.num_samples:
            raise DataError(f"sample {sample_id}: expected 0 to {self.num_samples - 1}")
        shard = int(np.searchsorted(self.starts, sample_id, side="right")) - 1
        return shard, sample_id - int(self.starts[shard])
