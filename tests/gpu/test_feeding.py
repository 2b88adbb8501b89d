"""Batches on their way to a GPU."""

from __future__ import annotations

from pathlib import Path

import torch

from clipkit.data import DevicePrefetcher, ShardIndex
from clipkit.types import Batch
from tests.helpers.factories import write_shards
from tests.helpers.streams import make


def test_prefetched_batches_are_those_of_the_stream(tmp_path: Path) -> None:
    index = ShardIndex.from_urls([str(path) for path in write_shards(tmp_path, (200,))])
    expected = [batch.images.clone() for batch in make(index)]
    busy = torch.randn(4096, 4096, device="cuda")
    found = []
    for batch in DevicePrefetcher(make(index), "cuda"):
        assert {tensor.device.type for tensor in batch.tensors()} == {"cuda"}
        for _ in range(4):
            busy = busy @ busy / 64  # the copies of this step must not overtake what it reads
        found.append(batch.images + 0)
        del batch
    assert all(torch.equal(a.cpu(), b) for a, b in zip(found, expected, strict=True))


def test_one_batch_more_is_on_the_device() -> None:
    class Large:
        def __len__(self) -> int:
            return 8

        def __iter__(self):
            for _ in range(8):
                images = torch.zeros(512, 3, 224, 224, dtype=torch.uint8, pin_memory=True)
                yield Batch(images, None, torch.zeros(512, dtype=torch.int64), ("",) * 512)

    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    size = 512 * 3 * 224 * 224
    for batch in DevicePrefetcher(Large(), "cuda"):
        batch.images.amax()
    assert torch.cuda.max_memory_allocated() < 4.5 * size, "this loop's own batch, the next two"
