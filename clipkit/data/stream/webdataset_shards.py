"""Shards that are read from front to back: addresses, known numbers of samples, first samples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass

from clipkit.data.shards.counts import counts_by_folder, known_counts
from clipkit.data.shards.lost_shards import lost_shards
from clipkit.data.shards.named import named_shards
from clipkit.data.shards.reader import RawSample
from clipkit.data.shards.sequential import read_samples
from clipkit.data.storage.cache import ShardCache, default_cache
from clipkit.data.storage.remote import Retries
from clipkit.data.storage.streams import open_stream
from clipkit.data.storage.urls import Address, Patterns
from clipkit.errors import ShardError


@dataclass(frozen=True, slots=True)
class SequentialShards:
    """Shards without an index.

    Args:
        addresses: Address of each shard, by URL.
        counts: Number of samples of a shard by URL, where a file lists it.
        retries: Retries of remote reads.
    """

    addresses: Mapping[str, Address]
    counts: Mapping[str, int]
    retries: Retries

    def read(self, url: str) -> Iterator[RawSample]:
        """Yield the samples of a shard.

        Raises:
            ShardError: If it cannot be read completely, after the samples before that.
        """
        with open_stream(self.addresses[url], self.retries) as stream:
            yield from read_samples(stream, url, self.counts.get(url))

    def local_samples(self) -> Iterator[RawSample]:
        """Yield the samples of the local shards at the start, as far as they can be read."""
        for url, address in self.addresses.items():
            if not address.is_local:
                return
            with suppress(ShardError):
                yield from self.read(url)


def find_shards(
    urls: Patterns | None, cache: ShardCache | None = None, *, allow_pipe: bool = False
) -> SequentialShards:
    """Find shards, and the numbers of their samples in files next to them.

    Args:
        urls: Patterns of shards; None for no shards.
        cache: Its retries apply; None for the default.
        allow_pipe: Whether a shard may be the output of a command.
    """
    retries = (cache or default_cache()).retries
    if urls is None:
        return SequentialShards({}, {}, retries)
    named = named_shards(urls, cache, allow_pipe=allow_pipe)
    shards = named.addresses
    unknown = [shard for shard in shards if shard not in named.indexed]
    stored = counts_by_folder(unknown, named.counts, cache)
    if lost := lost_shards(urls, shards, stored):
        raise ShardError("; ".join(reason for _, reason in lost))
    by_name = known_counts(unknown, {}, named.counts, stored)
    counts = {str(shard): by_name[shard.name] for shard in unknown if shard.name in by_name}
    counts |= {str(address): shard.num_samples for address, shard in named.indexed.items()}
    return SequentialShards({str(shard): shard for shard in shards}, counts, retries)
