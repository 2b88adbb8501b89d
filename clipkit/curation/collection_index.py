"""The index of the data of a collection, which a mask is made for."""

from __future__ import annotations

from collections.abc import Sequence

from clipkit.collection import Collection, check_same_shards
from clipkit.data import ShardIndex
from clipkit.data.shards.shard import Shard
from clipkit.data.storage.urls import exists, parse_address


def collection_index(
    collection: Collection, urls: Sequence[str] | None = None
) -> tuple[ShardIndex, bool]:
    """Return the index of the shards of a collection, and whether the shards were checked.

    Without ``urls``, shards that are all on this machine are indexed and compared with those that
    were embedded. Shards that are remote or have moved are not read: the index is what the
    collection recorded about them, which has the same fingerprint and digest. A run compares both
    with its own data again, by ``SampleMask.check``.

    Args:
        collection: The collection.
        urls: Where the shards are now; None for where they were when they were embedded.

    Raises:
        DataError: If the shards are others than those that were embedded.
    """
    recorded = [
        Shard(parse_address(each.url), each.num_samples, each.size_bytes, "", each.digest)
        for each in collection.info.shards
    ]
    addresses = [shard.address for shard in recorded]
    if urls is None and not all(each.is_local and exists(each.path) for each in addresses):
        return ShardIndex(recorded), False
    index = ShardIndex.from_urls(addresses if urls is None else urls)
    check_same_shards(collection, index)
    return index, True
