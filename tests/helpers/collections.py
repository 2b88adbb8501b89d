"""Small embedded collections, without a model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from clipkit.collection import (
    CollectionInfo,
    CollectionShard,
    ShardRows,
    write_info,
    write_shard_files,
)


def unit_rows(num_rows: int, width: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((num_rows, width))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float16)


def write_collection(
    folder: Path, counts=(5, 3), width: int = 8, captions_per_image: int = 2, seed: int = 0
) -> Path:
    """Write a collection of shards named 00000, 00001, ... with random embeddings."""
    folder.mkdir(parents=True, exist_ok=True)
    shards = tuple(
        CollectionShard(f"{number:05d}", str(folder / f"{number:05d}.tar"), count, 0)
        for number, count in enumerate(counts)
    )
    info = CollectionInfo(
        model="tiny", weights=None, model_hash="", data=str(folder), split="test",
        embedding_dim=width, precision="fp32", has_texts=captions_per_image > 0, columns=(),
        class_names=("red", "blue"), shards=shards,
    )  # fmt: skip
    write_info(info, folder)
    for number, shard in enumerate(shards):
        write_shard_files(_rows(shard, number, width, captions_per_image, seed), folder, shard.name)
    return folder


def set_column(folder: Path, shard: str, name: str, values) -> None:
    """Replace a column of the table of a shard."""
    path = folder / f"{shard}.parquet"
    table = pq.read_table(path)
    field = table.schema.field(name)
    column = pa.array(values, type=field.type)
    pq.write_table(table.set_column(table.column_names.index(name), field, column), path)


def set_errors(folder: Path, shard: str, rows: set[int]) -> None:
    """Say of some samples of a shard that they could not be embedded."""
    count = pq.read_metadata(folder / f"{shard}.parquet").num_rows
    set_column(folder, shard, "error", ["broken" if row in rows else None for row in range(count)])


def _rows(shard, number, width, captions_per_image, seed) -> ShardRows:
    count = shard.num_samples
    keys = [f"{shard.name}-{row}" for row in range(count)]
    columns = {
        "key": keys,
        "captions": [[f"{key} caption {n}" for n in range(captions_per_image)] for key in keys],
        "label": [row % 2 for row in range(count)],
        "image_type": ["jpg"] * count,
        "image_offset_bytes": [512 + 1024 * row for row in range(count)],
        "image_size_bytes": [100 + row for row in range(count)],
        "width_pixels": [64 + row for row in range(count)],
        "height_pixels": [64] * count,
        "image_sha256": [bytes([number % 256, row % 256]) * 16 for row in range(count)],
        "image_signature": [bytes([number % 256, row % 256]) * 20 for row in range(count)],
        "error": [None] * count,
    }
    texts = unit_rows(count * captions_per_image, width, seed + 1000 + number)
    return ShardRows(
        unit_rows(count, width, seed + number), texts if captions_per_image else None, columns
    )
