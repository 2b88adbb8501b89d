"""Embedded collections: the embeddings of a data set as files, one pair of files per shard."""

from clipkit.collection.collection import Collection
from clipkit.collection.image_files import CollectionImages
from clipkit.collection.info import CollectionInfo, CollectionShard, read_info, write_info
from clipkit.collection.member_files import CollectionFiles
from clipkit.collection.pair_scores import pair_scores
from clipkit.collection.same_shards import check_same_shards
from clipkit.collection.shard_files import ShardFiles, ShardRows
from clipkit.collection.shard_writer import ShardWriter, write_shard_files

__all__ = [
    "Collection",
    "CollectionFiles",
    "CollectionImages",
    "CollectionInfo",
    "CollectionShard",
    "ShardFiles",
    "ShardRows",
    "ShardWriter",
    "check_same_shards",
    "pair_scores",
    "read_info",
    "write_info",
    "write_shard_files",
]
