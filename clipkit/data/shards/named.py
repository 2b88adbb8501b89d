"""The shards that a user named: by patterns, wids indexes, and index files of data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from clipkit.data.shards.counts import parse_counts, read_json, shards_of_wids
from clipkit.data.shards.index_files import is_index_file, read_index_file
from clipkit.data.shards.repeats import refuse_repeats
from clipkit.data.shards.shard import Shard
from clipkit.data.storage.cache import ShardCache
from clipkit.data.storage.urls import Address, Patterns, expand_urls


@dataclass(frozen=True, slots=True)
class NamedShards:
    """Shards of some patterns.

    Args:
        addresses: All shards, in order.
        counts: Numbers of samples in wids indexes, by base name of the shard.
        indexed: Shards that an index file of a data set describes.
    """

    addresses: Sequence[Address]
    counts: Mapping[str, int]
    indexed: Mapping[Address, Shard]


def named_shards(
    urls: Patterns,
    cache: ShardCache | None = None,
    *,
    allow_pipe: bool = False,
) -> NamedShards:
    """Return the shards of patterns, wids indexes and index files of data sets.

    Raises:
        DataError: If an index is damaged, or a shard is named twice.
        ShardError: If no shards match a pattern.
    """
    addresses: list[Address] = []
    counts: dict[str, int] = {}
    indexed: dict[Address, Shard] = {}
    patterns = expand_urls(urls, allow_pipe=allow_pipe)
    for address in patterns:
        if is_index_file(address):
            shards = read_index_file(address, cache)
            indexed |= {shard.address: shard for shard in shards}
            addresses += [shard.address for shard in shards]
        elif address.kind != "pipe" and address.name.endswith(".json"):
            content = read_json(address, cache)
            addresses += shards_of_wids(content, address)
            counts |= parse_counts(content, str(address))
        else:
            addresses.append(address)
    # The writer of a single index file has compared its shards, which takes a call for each.
    if len(patterns) > 1 or not indexed:
        refuse_repeats(addresses)
    return NamedShards(addresses, counts, indexed)
