"""Embed a data set, shard by shard, into the files of a collection."""

from clipkit.collection.embedding.claim import describe_collection, start_collection
from clipkit.collection.embedding.plan import EmbedPlan
from clipkit.collection.embedding.run import EmbedReport, embed_collection
from clipkit.collection.embedding.shards import ShardReport, embed_shard, embed_shards
from clipkit.part import Part

__all__ = [
    "EmbedPlan",
    "EmbedReport",
    "Part",
    "ShardReport",
    "describe_collection",
    "embed_collection",
    "embed_shard",
    "embed_shards",
    "start_collection",
]
