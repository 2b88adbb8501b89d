"""Write an embedded collection of random unit vectors, without images, for measurements."""

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

SHARD_ROWS = 50_000
CLASSES = 100
CENTRES = 1000


def write_simulated(folder: Path, num_rows: int, width: int, model: str, model_hash: str) -> None:
    """Write a collection whose vectors gather around 1,000 centres; complete shards are kept.

    Args:
        folder: The collection.
        num_rows: Number of images.
        width: Number of components of an embedding.
        model: Name of the model for queries.
        model_hash: Its hash; "" for none.
    """
    counts = [min(SHARD_ROWS, num_rows - start) for start in range(0, num_rows, SHARD_ROWS)]
    shards = tuple(
        CollectionShard(f"{number:05d}", f"missing/{number:05d}.tar", count, 0)
        for number, count in enumerate(counts)
    )
    folder.mkdir(parents=True, exist_ok=True)
    info = CollectionInfo(
        model=model, weights=None, model_hash=model_hash, data="simulated", split="test",
        embedding_dim=width, precision="fp32", has_texts=False, columns=(),
        class_names=tuple(f"class {number}" for number in range(CLASSES)), shards=shards,
    )  # fmt: skip
    write_info(info, folder)
    centres = np.random.default_rng(0).standard_normal((CENTRES, width)).astype(np.float32)
    for number, shard in enumerate(shards):
        if not (folder / f"{shard.name}.parquet").exists():
            rows = _rows(np.random.default_rng((1, number)), shard.num_samples, centres, number)
            write_shard_files(rows, folder, shard.name)


def _rows(rng: np.random.Generator, count: int, centres: np.ndarray, shard: int) -> ShardRows:
    vectors = rng.standard_normal((count, centres.shape[1]), dtype=np.float32)
    vectors += centres[rng.integers(0, len(centres), count)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    first = shard * SHARD_ROWS
    labels = rng.integers(0, CLASSES, count)
    columns = {
        "key": [f"{first + row:09d}" for row in range(count)],
        "captions": [
            [f"an image of class {label}, number {row}"] for row, label in enumerate(labels)
        ],
        "label": labels,
        "image_type": ["jpg"] * count,
        "image_offset_bytes": [None] * count,
        "image_size_bytes": [None] * count,
        "width_pixels": rng.integers(64, 2048, count),
        "height_pixels": rng.integers(64, 2048, count),
        "image_sha256": [None] * count,
        "image_signature": [None] * count,
        "error": [None] * count,
    }
    return ShardRows(vectors.astype(np.float16), None, columns)
