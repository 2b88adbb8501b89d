"""Write an embedded collection of simulated vectors: unit-norm, in clusters of clusters."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipkit.collection import (
    CollectionInfo,
    CollectionShard,
    ShardRows,
    write_info,
    write_shard_files,
)
from clipkit.collection.shard_files import COLUMNS

ROWS_PER_SHARD = 100_000
NUM_TOPICS = 100
NUM_CLUSTERS = 10_000
SPREAD = 0.8


class Vectors:
    """Random vectors around random centres, which are around random topics.

    The mean cosine similarity of two vectors of a cluster is 0.72, of a topic 0.44, of others 0.
    """

    def __init__(self, width: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        topics = rng.standard_normal((NUM_TOPICS, width), dtype=np.float32)
        self._centres = topics[np.arange(NUM_CLUSTERS) % NUM_TOPICS] + SPREAD * (
            rng.standard_normal((NUM_CLUSTERS, width), dtype=np.float32)
        )

    def draw(self, count: int, rng: np.random.Generator) -> np.ndarray:
        """Return unit-norm float32 vectors of random clusters."""
        rows = self._centres[rng.integers(0, NUM_CLUSTERS, count)]
        rows += SPREAD * rng.standard_normal(rows.shape, dtype=np.float32)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows


def write_simulated(folder: Path, num_rows: int, width: int = 512, seed: int = 0) -> Vectors:
    """Write a collection of simulated images without captions, and return what drew them."""
    vectors = Vectors(width, seed)
    counts = [min(ROWS_PER_SHARD, num_rows - at) for at in range(0, num_rows, ROWS_PER_SHARD)]
    shards = tuple(
        CollectionShard(f"{number:05d}", str(folder / f"{number:05d}.tar"), count, 0)
        for number, count in enumerate(counts)
    )
    info = CollectionInfo(
        model="simulated", weights=None, model_hash="", data=str(folder), split="",
        embedding_dim=width, precision="fp32", has_texts=False, columns=(), class_names=(),
        shards=shards,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    for number, shard in enumerate(shards):
        count = shard.num_samples
        images = vectors.draw(count, np.random.default_rng((seed, 1, number)))
        columns = {name: [None] * count for name in COLUMNS}
        columns["key"] = [f"{number:05d}{row:07d}" for row in range(count)]
        columns["captions"] = [[]] * count
        columns["width_pixels"] = list(range(count))
        write_shard_files(ShardRows(images.astype(np.float16), None, columns), folder, shard.name)
    write_info(info, folder)
    return vectors
