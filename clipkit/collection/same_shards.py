"""Whether shards are those that a collection was made of."""

from __future__ import annotations

from clipkit.collection.collection import Collection
from clipkit.collection.info import CollectionShard
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.shard import Shard
from clipkit.data.storage.urls import base_name
from clipkit.errors import DataError


def check_same_shards(collection: Collection, index: ShardIndex) -> None:
    """Refuse shards other than those that were embedded, so that rows are sample ids.

    Name, number of samples, size and digest of each shard are compared as far as both sides know
    them; the folder of the shards may be another.

    Args:
        collection: The collection.
        index: Index of the shards.

    Raises:
        DataError: If a shard is another one, is missing, or was added.

    Examples:
        >>> check_same_shards(Collection("collection"), ShardIndex.from_urls("data/train"))
        Traceback (most recent call last):
        ...
        clipkit.errors.DataError: collection: was made of other data than data/train/00001.tar: ...
    """
    embedded = collection.info.shards
    folder, where = collection.folder, embedded[0].url
    if len(embedded) != len(index.shards):
        raise DataError(
            f"{folder}: expected the {len(embedded)} shards that were embedded, such as {where}, "
            f"got {len(index.shards)}; name the same shards, or embed these"
        )
    for shard, given in zip(embedded, index.shards, strict=True):
        if difference := _difference(shard, given):
            raise DataError(
                f"{folder}: was made of other data than {given.url}: {difference}; name the shards "
                "that were embedded, in their order, or embed these"
            )


def _difference(embedded: CollectionShard, given: Shard) -> str | None:
    """Return what differs, or None."""
    name = base_name(embedded.url)
    if name != given.address.name:
        return f"expected {name}, got {given.address.name}"
    if embedded.num_samples != given.num_samples:
        return f"expected {embedded.num_samples} samples, got {given.num_samples}"
    sizes = embedded.size_bytes, given.size_bytes
    if min(sizes) > 0 and sizes[0] != sizes[1]:
        return f"expected {sizes[0]} bytes, got {sizes[1]}"
    if embedded.digest and given.digest and embedded.digest != given.digest:
        return "expected samples with the keys and sizes that were embedded, got others"
    return None
