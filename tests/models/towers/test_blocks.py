"""Blocks of towers, and the last block that computes its class token alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from clipkit.models import OpenClipImageTower, TimmImageTower, from_open_clip
from clipkit.models.open_clip.class_token_block import ClassTokenBlock
from clipkit.models.towers.blocks import tower_blocks

CONFIG: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 32, "head_width": 8, "layers": 2},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 3},
}


def test_blocks_of_transformers():
    encoder = from_open_clip(CONFIG)
    image, text = tower_blocks(encoder.image_tower), tower_blocks(encoder.text_tower)
    assert image == list(encoder.image_tower.visual.transformer.resblocks)
    assert text == list(encoder.text_tower.text.transformer.resblocks)


@pytest.mark.parametrize(("model", "least"), [("test_vit", 2), ("test_resnet", 2)])
def test_blocks_of_timm_models_do_not_overlap(model, least):
    tower = TimmImageTower(model, embedding_dim=8, image_size=64)
    found = tower_blocks(tower)
    assert len(found) >= least
    held = [id(p) for block in found for p in block.parameters()]
    assert len(held) == len(set(held))


@pytest.mark.parametrize("layers", [1, 2])
def test_class_token_block_changes_neither_embeddings_nor_gradients(layers):
    import open_clip

    torch.manual_seed(0)
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "layers": layers}}
    tower = OpenClipImageTower(config)
    assert isinstance(tower.visual.transformer.resblocks[-1], ClassTokenBlock)
    plain = open_clip.CustomTextCLIP(32, config["vision_cfg"], config["text_cfg"]).visual
    plain.load_state_dict(tower.visual.state_dict())
    images, weight = torch.randn(3, 3, 32, 32), torch.randn(3, 32)
    outputs = plain(images), tower(images)
    torch.testing.assert_close(*outputs, rtol=1e-5, atol=1e-6)
    for output in outputs:
        (output * weight).sum().backward()
    expected = {name: p.grad for name, p in plain.named_parameters()}
    got = {name: p.grad for name, p in tower.visual.named_parameters()}
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


def test_towers_that_read_other_tokens_keep_their_last_block():
    config = {**CONFIG, "vision_cfg": {**CONFIG["vision_cfg"], "pool_type": "avg"}}
    blocks = OpenClipImageTower(config).visual.transformer.resblocks
    assert not isinstance(blocks[-1], ClassTokenBlock)
