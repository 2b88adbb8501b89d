"""Small sources that webdataset reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import webdataset

from clipkit.data import EvalTransform, PairSource, WebDatasetShards, WebDatasetSource
from clipkit.types import Batch
from tests.helpers.fakes import ByteTokenizer

COUNTS = [7, 13, 5, 20, 16, 3]
TOTAL = sum(COUNTS)
READ = {"resampled", "pipeline", "counts", "allow_pipe", "cache"}
Handler = Callable[[Exception], bool]


def make(urls: Any, num_samples: int = TOTAL, batch_size: int = 4, **options: Any) -> Any:
    defaults: dict[str, Any] = {
        "tokenizer": ByteTokenizer(),
        "image_transform": EvalTransform(16),
        "seed": 3,
    }
    read = {name: options.pop(name) for name in READ & options.keys()}
    shards = WebDatasetShards(urls, num_samples, **read)
    return WebDatasetSource(shards, batch_size=batch_size, **{**defaults, **options})


def train(source: PairSource, steps: int) -> list[Batch]:
    """Go through ``steps`` batches over epochs, committing each."""
    seen: list[Batch] = []
    while len(seen) < steps:
        for batch in source:
            source.commit(batch)
            seen.append(batch)
            if len(seen) == steps:
                break
    return seen


def keys(batches: Iterable[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def own(urls: Sequence[str], seed: int, handler: Handler) -> Any:
    """A pipeline as a user writes it."""
    return webdataset.DataPipeline(
        webdataset.SimpleShardList(urls, seed=seed),
        webdataset.split_by_node,
        webdataset.split_by_worker,
        webdataset.tarfile_to_samples(handler=handler),
    )
