"""Embedded collections of given embeddings and columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.collection import (
    Collection,
    CollectionInfo,
    CollectionShard,
    ShardRows,
    write_info,
    write_shard_files,
)
from clipkit.collection.shard_tables import COLUMNS


def collection_of(
    folder: Path,
    counts: Sequence[int],
    *,
    images: np.ndarray | None = None,
    texts: Sequence[np.ndarray] | None = None,
    model: str = "tiny",
    class_names: Sequence[str] = (),
    **columns: Sequence[Any],
) -> Collection:
    """Write a collection of N samples in shards of ``counts``; columns that are not given are null.

    Args:
        folder: Folder of the collection.
        counts: Number of samples of each shard.
        images: Embeddings [N, D]; None for equal ones.
        texts: Embeddings of the captions of each sample; None for no texts.
        model: Name of the model.
        class_names: Names of the classes.
        columns: Values of N samples. Keys are "0", "1", ... by default.
    """
    folder.mkdir(parents=True, exist_ok=True)
    total = sum(counts)
    if images is None:
        images = np.tile(np.array([1.0, 0.0, 0.0, 0.0]), (total, 1))
    width = images.shape[1]
    if texts is not None and "captions" not in columns:
        columns["captions"] = [[f"caption {n}" for n in range(len(own))] for own in texts]
    columns.setdefault("key", [str(row) for row in range(total)])
    columns.setdefault("captions", [[]] * total)
    values = {name: columns.get(name, [None] * total) for name in (*COLUMNS, *columns)}
    shards, start = [], 0
    for number, count in enumerate(counts):
        name, part = f"{number:05d}", slice(start, start + count)
        shards.append(CollectionShard(name, str(folder / f"{name}.tar"), count, 1000 + number))
        own = None if texts is None else [row for each in texts[part] for row in each]
        rows = ShardRows(
            images[part].astype(np.float16),
            None if own is None else np.array(own, np.float16).reshape(-1, width),
            {column: list(each[part]) for column, each in values.items()},
        )
        write_shard_files(rows, folder, name)
        start += count
    info = CollectionInfo(
        model=model, weights=None, model_hash="", data=str(folder), split="train",
        embedding_dim=width, precision="fp32", has_texts=texts is not None,
        columns=tuple(set(columns) - set(COLUMNS)), class_names=tuple(class_names),
        shards=tuple(shards),
    )  # fmt: skip
    write_info(info, folder)
    return Collection(folder)


def at_angles(degrees: Sequence[float]) -> np.ndarray:
    """Unit vectors at angles to the first axis."""
    radians = np.deg2rad(np.array(degrees, dtype=np.float64))
    zeros = np.zeros_like(radians)
    return np.stack([np.cos(radians), np.sin(radians), zeros, zeros], axis=1)
