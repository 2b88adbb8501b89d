"""Batches in page-locked memory, joined of parts by a thread."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from clipkit.data import ShardIndex
from clipkit.data.stream import workers
from tests.data.samples.test_joining import check_equal
from tests.gpu.device import DEVICE, IS_CUDA
from tests.helpers.factories import write_shards
from tests.helpers.streams import make


@pytest.mark.parametrize("task_samples", [3, 8])
def test_batches_of_workers_are_page_locked_and_those_of_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task_samples: int
) -> None:
    monkeypatch.setattr(workers, "TASK_SAMPLES", task_samples)
    write_shards(tmp_path, [40])
    index = ShardIndex.from_urls(tmp_path)
    torch.zeros(1, device=DEVICE)  # from here on the device is in use
    mine, theirs = list(make(index, 8, num_workers=2)), list(make(index, 8))
    for batch, expected in zip(mine, theirs, strict=True):
        assert batch.images.is_pinned() == expected.images.is_pinned() == IS_CUDA
        check_equal(batch, expected)
        assert torch.equal(batch.to(DEVICE).images.cpu(), expected.images)
