"""Real shards as an embedded collection, without a model."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from clipkit.collection import (
    CollectionInfo,
    CollectionShard,
    ShardRows,
    write_info,
    write_shard_files,
)
from clipkit.data import ShardIndex, ShardReader
from clipkit.data.images.formats import IMAGE_EXTENSIONS, open_image
from clipkit.data.images.perceptual_hash import image_signature
from clipkit.data.shards.members import read_label
from clipkit.errors import SampleError

WIDTH = 8
CLASS_NAMES = ("red", "green", "blue", "yellow")


def class_direction(label: int, noise: float, rng: np.random.Generator) -> np.ndarray:
    """A unit vector near the axis of a class."""
    row = np.eye(WIDTH)[label % WIDTH] + noise * rng.standard_normal(WIDTH)
    return (row / np.linalg.norm(row)).astype(np.float16)


def embed_shards(shards: Path | str, folder: Path, *, noise: float = 0.05) -> Path:
    """Write a collection whose images and captions are near the axis of their class.

    A sample that cannot be read gets zeros and an error, as ``clipkit embed`` does it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    index = ShardIndex.from_urls(str(shards))
    reader, rng = ShardReader(index), np.random.default_rng(0)
    listed = []
    for number, shard in enumerate(index.shards):
        name = f"{number:05d}"
        listed.append(
            CollectionShard(name, shard.url, shard.num_samples, shard.size_bytes, shard.digest)
        )
        first = int(index.starts[number])
        rows = [_row(reader, number, first, at, noise, rng) for at in range(shard.num_samples)]
        images = np.stack([row.pop("image") for row in rows])
        texts = [text for row in rows for text in row.pop("texts")]
        columns = {column: [row[column] for row in rows] for column in rows[0]}
        content = ShardRows(images, np.array(texts, dtype=np.float16).reshape(-1, WIDTH), columns)
        write_shard_files(content, folder, name)
    info = CollectionInfo(
        model="tiny", weights=None, model_hash="", data=str(shards), split="test",
        embedding_dim=WIDTH, precision="fp32", has_texts=True, columns=(),
        class_names=CLASS_NAMES, shards=tuple(listed),
    )  # fmt: skip
    write_info(info, folder)
    return folder


def _row(reader, shard, first, at, noise, rng):
    raw = reader.read(first + at)
    captions = raw.members.get("txt", b"").decode().splitlines()
    row = {
        "key": raw.key, "captions": captions, "label": None, "image_type": None,
        "image_offset_bytes": None, "image_size_bytes": None, "width_pixels": None,
        "height_pixels": None, "image_sha256": None, "image_signature": None, "error": None,
        "image": np.zeros(WIDTH, np.float16),
        "texts": [np.zeros(WIDTH, np.float16)] * len(captions),
    }  # fmt: skip
    try:
        name = next((each for each in IMAGE_EXTENSIONS if each in raw.members), None)
        if name is None:
            raise SampleError("no image")
        offset, size = reader.table(shard).members(at)[name]
        data = raw.members[name]
        width, height = open_image(data, 10**8).size
        label = read_label(raw.members, "cls")
        row |= {
            "label": label if label >= 0 else None, "image_type": name,
            "image_offset_bytes": offset, "image_size_bytes": size,
            "width_pixels": width, "height_pixels": height,
            "image_sha256": hashlib.sha256(data).digest(),
            "image_signature": image_signature(data).astype("<u8").tobytes(),
            "image": class_direction(max(0, label), noise, rng),
            "texts": [class_direction(max(0, label), noise, rng) for _ in captions],
        }  # fmt: skip
    except SampleError as error:
        row["error"] = str(error)
    return row
