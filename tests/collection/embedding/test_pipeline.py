"""One loader reads over the ends of shards, and defaults follow the machine."""

from __future__ import annotations

import os

import pytest
import torch
from torch.utils.data import DataLoader

from clipkit.collection.embedding import embed_shards, start_collection
from clipkit.collection.embedding.plan import default_workers
from tests.helpers.embedding import encoder, plan_of
from tests.helpers.evaluation_data import write_layout


@pytest.mark.parametrize("workers", [1, 2])
def test_the_next_shard_is_read_while_one_is_embedded(tmp_path, monkeypatch, workers):
    data = write_layout(tmp_path / "set", (2,) * 8)
    plan = plan_of(data, tmp_path / "out", batch_size=2, num_workers=workers)
    info = start_collection(plan, encoder(), None, plan.open_data())
    loaders, asked = [], []
    monkeypatch.setattr(
        "clipkit.collection.embedding.reading.DataLoader",
        lambda *args, **more: loaders.append(1) or DataLoader(*args, **more),
    )
    reports = embed_shards(
        plan, info, encoder(), plan.open_data(), range(8), lambda n: asked.append(n) or True
    )
    for report in reports:
        # Two batches per worker are in advance, and a batch is a shard here.
        assert asked == list(range(min(8, report.number + 1 + 2 * workers)))
    assert len(loaders) == 1


@pytest.mark.parametrize(
    ("device", "cores", "ranks", "expected"),
    [
        ("cpu", 1, None, 0), ("cpu", 2, None, 1), ("cpu", 4, None, 1), ("cpu", 64, None, 16),
        ("cpu", 64, "8", 2), ("cuda", 1, None, 1), ("cuda", 8, None, 8), ("cuda", 96, "8", 12),
        ("cuda", 128, None, 16), ("cuda", 4, "8", 1),
    ],
)  # fmt: skip
def test_the_number_of_workers_follows_the_cores(monkeypatch, device, cores, ranks, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert default_workers(torch.device(device)) == expected
