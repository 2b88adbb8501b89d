"""Evaluators on an encoder whose weights are spread over ranks, which make uneven passes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from clipkit.data.text.tokenizers import OpenClipTokenizer
from clipkit.evaluation import EmbedOptions, Retrieval
from clipkit.models import PrototypeLabelHead, from_open_clip
from clipkit.models.evaluating import evaluating
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


def classify_while_training(rank: int, world_size: int, dtype: torch.dtype | None):
    """Scores by the texts of classes before and after a change of the text tower."""
    torch.manual_seed(0)
    head = PrototypeLabelHead(16, ["cat", "dog", "old horse"])
    encoder = from_open_clip(tiny.CONFIG, label_head=head)
    head.read_texts(OpenClipTokenizer(context_length=16))
    if world_size > 1:
        shard_encoder(encoder, init_device_mesh("cpu", (world_size,)), ShardingOptions(dtype))
    scores, images = [], tiny.batch().images
    for _ in range(3):
        with evaluating(encoder):
            scores.append(encoder.classify(images))
            assert torch.equal(encoder.classify(images), scores[-1])
        with torch.no_grad():
            for parameter in encoder.text_tower.parameters():
                parameter.add_(0.1 * (50 * parameter).sin())
    return torch.stack(scores).float().numpy()


def classify_all(rank: int, world_size: int):
    return [classify_while_training(rank, world_size, dtype) for dtype in (None, torch.bfloat16)]


def test_classes_are_read_by_the_text_tower_of_the_moment():
    """Gathered weights do not tell that they have changed since the last evaluation."""
    expected = classify_while_training(0, 1, None)
    assert not np.allclose(expected[0], expected[1], atol=0.1)
    for exact, half in run_ranks(classify_all, 2):
        np.testing.assert_allclose(exact, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(half, expected, rtol=0.1, atol=0.5)
