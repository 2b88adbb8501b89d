"""Features of photos and captions by frozen towers, and collections of other embeddings of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from clipkit.collection import Collection, CollectionShard, write_info
from clipkit.data import ShardIndex


@dataclass(frozen=True)
class Features:
    """Features of photos and captions by the frozen towers."""

    collection: Collection
    images: Tensor
    texts: Tensor
    owners: Tensor

    @classmethod
    def of(cls, folder: Path) -> Features:
        """Read a collection."""
        collection = Collection(folder)
        images = torch.from_numpy(collection.images(np.arange(len(collection)))).float()
        texts = np.concatenate([files.texts() for files in collection.shards])
        lengths = np.concatenate([np.diff(files.text_starts()) for files in collection.shards])
        owners = torch.from_numpy(np.repeat(np.arange(len(lengths)), lengths))
        return cls(collection, images, torch.from_numpy(texts).float(), owners)

    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The tensors."""
        return self.images, self.texts, self.owners

    def with_captions_of(self, source: np.ndarray) -> Features:
        """Give each photo the captions of another one."""
        lengths = torch.bincount(self.owners)
        starts = torch.cumsum(lengths, 0) - lengths
        spans = zip(starts[source].tolist(), lengths[source].tolist(), strict=True)
        rows = torch.cat([torch.arange(first, first + length) for first, length in spans])
        owners = torch.repeat_interleave(torch.arange(len(lengths)), lengths[source])
        return replace(self, texts=self.texts[rows], owners=owners)


def write_collection(
    features: Collection, source: np.ndarray, rows: tuple[Tensor, Tensor], shards: Path, out: Path
) -> None:
    """Write the embeddings of noisy shards: tables are those of the photos, with other captions."""
    out.mkdir(parents=True, exist_ok=True)
    index = ShardIndex.from_urls(str(shards))
    listed = tuple(
        CollectionShard(f"{number:05d}", each.url, each.num_samples, each.size_bytes, each.digest)
        for number, each in enumerate(index.shards)
    )
    table = features.table(["key", "captions", "width_pixels", "height_pixels", "error"])
    captions = table.column("captions").take(pa.array(source))
    table = table.set_column(1, "captions", captions)
    lengths = np.array([len(texts) for texts in captions.to_pylist()])
    ends = np.concatenate([[0], np.cumsum(lengths)])
    for shard, start, end in zip(listed, index.starts[:-1], index.starts[1:], strict=True):
        base = out / shard.name
        np.save(f"{base}.images.f16.npy", rows[0][start:end].half().numpy())
        np.save(f"{base}.texts.f16.npy", rows[1][ends[start] : ends[end]].half().numpy())
        pq.write_table(table.slice(start, end - start), f"{base}.parquet")
    info = replace(
        features.info, model="cross-fitted heads", model_hash="", data=str(shards),
        embedding_dim=rows[0].shape[1], shards=listed,
    )  # fmt: skip
    write_info(info, out)
