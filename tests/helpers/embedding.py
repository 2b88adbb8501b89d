"""Embed small data into a collection, and compare collections."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from PIL import Image

from clipkit.collection import read_info
from clipkit.collection.embedding import (
    EmbedPlan,
    EmbedReport,
    Part,
    embed_collection,
    start_collection,
)
from clipkit.evaluation import EmbeddedPairs, EmbedOptions, embed_pairs
from clipkit.models import DualEncoder
from tests.helpers.evaluation_data import tiny_encoder
from tests.helpers.factories import write_shard


@cache
def encoder() -> DualEncoder:
    return tiny_encoder().eval()


def plan_of(data: Path, output: Path, **options) -> EmbedPlan:
    defaults = {"batch_size": 4, "num_workers": 0}
    return EmbedPlan("tiny", str(data), output, **{**defaults, **options})


def embed(data: Path, output: Path, part: Part | None = None, **options) -> EmbedReport:
    """Embed data with the encoder that is always the same, as the command does."""
    plan = plan_of(data, output, **options)
    opened = plan.open_data()
    info = start_collection(plan, encoder(), None, opened)
    return embed_collection(plan, info, encoder(), opened, part)


def oracle(data: Path, **options) -> EmbeddedPairs:
    """What ``embed_pairs`` returns for the data of a plan."""
    opened = plan_of(data, data / "unused", **options).open_data()
    return embed_pairs(encoder(), opened, EmbedOptions(limit=options.get("limit")))


def contents(folder: Path) -> dict[str, object]:
    """Content of each file of a collection; tables as rows, without the rest of their bytes."""
    found: dict[str, object] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix == ".parquet":
            found[path.name] = pyarrow.parquet.read_table(path).to_pylist()
        else:
            found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def arrays(folder: Path, kind: str) -> np.ndarray:
    """Embeddings of all shards, in the order of the data."""
    names = [shard.name for shard in read_info(folder).shards]
    return np.concatenate([np.load(folder / f"{name}.{kind}.f16.npy") for name in names])


def rows(folder: Path) -> list[dict[str, Any]]:
    """Rows of the tables of all shards, in the order of the data."""
    names = [shard.name for shard in read_info(folder).shards]
    tables = [pyarrow.parquet.read_table(folder / f"{name}.parquet") for name in names]
    return [row for table in tables for row in table.to_pylist()]


def write_fields(path: Path, values: Sequence[str]) -> Path:
    """A shard of which each sample has an image and a JSON member with this content."""
    out = io.BytesIO()
    Image.new("RGB", (20, 20), "red").save(out, "PNG")
    members = [{"png": out.getvalue(), "json": value.encode()} for value in values]
    return write_shard(path, [(f"s{number}", each) for number, each in enumerate(members)])
