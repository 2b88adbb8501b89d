"""Evaluators on an encoder whose weights are spread over ranks, which make uneven passes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from clipkit.evaluation import EmbedOptions, Retrieval
from clipkit.models import from_open_clip
from clipkit.training.strategies.sharding import ShardingOptions, shard_encoder
from tests.helpers import tiny
from tests.helpers.factories import write_shards
from tests.helpers.ranks import run_ranks

NUM_IMAGES = (4, 5, 1)
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}  # weights in channels-last order


def evaluate(rank: int, world_size: int, folder: Path, dtype: torch.dtype | None):
    encoder = tiny.encoder()
    if world_size > 1:
        shard_encoder(encoder, init_device_mesh("cpu", (world_size,)), ShardingOptions(dtype))
    evaluator = Retrieval(str(folder), options=EmbedOptions(batch_size=2))
    first, second = evaluator.run(encoder), evaluator.run(encoder)
    assert first == second
    # training goes on afterwards, and the weights are spread again
    encoder(tiny.batch()).image.sum().backward()
    parameters = list(encoder.image_tower.parameters())
    assert world_size == 1 or all(isinstance(p, DTensor) for p in parameters)
    assert all(p.grad is not None for p in parameters)
    return first


def evaluate_all(rank: int, world_size: int, root: Path):
    if world_size > 1:
        resnet = from_open_clip({**tiny.CONFIG, "vision_cfg": RESNET})
        shard_encoder(resnet, init_device_mesh("cpu", (world_size,)))
        images = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
        assert resnet.encode_image(images).shape == (2, 16)
    exact = {n: evaluate(rank, world_size, root / str(n), None) for n in NUM_IMAGES}
    return exact, evaluate(rank, world_size, root / "5", torch.bfloat16)


def test_ranks_that_make_uneven_passes_agree_with_one_process(tmp_path):
    for number in NUM_IMAGES:
        write_shards(tmp_path / str(number), (number,))
    alone, _ = evaluate_all(0, 1, tmp_path)
    (one, half), (other, other_half) = run_ranks(evaluate_all, 2, tmp_path)
    for number in NUM_IMAGES:
        assert one[number] == other[number] == pytest.approx(alone[number])
    assert half == other_half
