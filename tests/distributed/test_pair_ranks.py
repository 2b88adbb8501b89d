"""Ranks of correct pairs by several processes, which divide the images."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from clipkit.metrics import pair_ranks, retrieval_recall
from tests.helpers.ranks import run_ranks


def data(num_images):
    generator = torch.Generator().manual_seed(num_images)
    image = F.normalize(torch.randn(num_images, 6, generator=generator), dim=1)
    text = F.normalize(torch.randn(40, 6, generator=generator), dim=1)
    pairs = torch.stack(
        [torch.randint(0, size, (90,), generator=generator) for size in (num_images, 40)], 1
    )
    return image, text, pairs


def measure(rank, world_size, num_images):
    image, text, pairs = data(num_images)
    ranks = pair_ranks(image, text, pairs, chunk_size=7, over_ranks=world_size > 1)
    owner = torch.arange(40) % num_images
    recalls = retrieval_recall(image, text, owner, chunk_size=7, over_ranks=world_size > 1)
    return [tuple(map(torch.Tensor.tolist, (r.query, r.incorrect, r.correct))) for r in ranks], (
        recalls
    )


@pytest.mark.parametrize("world_size", [2, 4])
@pytest.mark.parametrize("num_images", [33, 5])  # 5: only the first process has any
def test_processes_equal_one(world_size, num_images):
    expected = measure(0, 1, num_images)
    assert run_ranks(measure, world_size, num_images) == [expected] * world_size
