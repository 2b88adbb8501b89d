"""Patches that training leaves out: which, when, and what they do to gradients."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from clipkit.errors import ConfigError
from clipkit.losses import CombinedLoss, ContrastiveLoss, embed_in_micro_batches
from clipkit.losses.accumulation import _join, split_batch
from clipkit.models import DualEncoder, OpenClipImageTower, TimmImageTower, from_open_clip
from tests.helpers import tiny_models as tiny


def open_clip_tower(share: float | None = None) -> OpenClipImageTower:
    return OpenClipImageTower(tiny.config(), patch_dropout=share)


def timm_tower(share: float = 0.0) -> TimmImageTower:
    return TimmImageTower("test_vit", embedding_dim=24, image_size=64, patch_dropout=share)


def tokens_of(tower: nn.Module, blocks: nn.ModuleList) -> int:
    """How many tokens the first block gets."""
    seen: list[int] = []
    handle = blocks[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    tower(torch.randn(2, 3, tower.image_size, tower.image_size))
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("kind", ["open_clip", "timm"])
def test_fewer_tokens_in_training_and_all_in_evaluation(kind):
    tower = open_clip_tower(0.75) if kind == "open_clip" else timm_tower(0.75)
    blocks = tower.visual.transformer.resblocks if kind == "open_clip" else tower.trunk.blocks
    assert tokens_of(tower.train(), blocks) == 1 + 4  # the class token, and 4 of 16 patches
    assert tokens_of(tower.eval(), blocks) == 1 + 16


@pytest.mark.parametrize("make", [open_clip_tower, timm_tower])
def test_the_seed_decides_which(make):
    tower = make(0.5).train()
    images = torch.randn(4, 3, tower.image_size, tower.image_size)

    def embed(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return tower(images)

    assert torch.equal(embed(1), embed(1))
    assert not torch.allclose(embed(1), embed(2))
    tower.eval()
    assert torch.equal(embed(1), embed(2))


def test_checkpoints_and_weights_keep_it():
    tower, timm = open_clip_tower(0.5), timm_tower(0.5)
    again = OpenClipImageTower(**json.loads(json.dumps(tower.config())))
    assert again.visual.patch_dropout.prob == 0.5
    assert TimmImageTower(**json.loads(json.dumps(timm.config()))).trunk.patch_drop.prob == 0.5
    encoder = from_open_clip(tiny.config(), patch_dropout=0.25)
    assert encoder.image_tower.visual.patch_dropout.prob == 0.25
    assert tower.state_dict().keys() == open_clip_tower().state_dict().keys()


def test_the_option_wins_over_the_configuration():
    config = tiny.config({**tiny.VIT, "patch_dropout": 0.5})
    assert OpenClipImageTower(config).visual.patch_dropout.prob == 0.5
    without = OpenClipImageTower(config, patch_dropout=0.0)
    assert isinstance(without.visual.patch_dropout, nn.Identity)


@pytest.mark.parametrize("micro_batch_size", [4, 5])
def test_micro_batches_give_the_gradients_of_the_whole_batch(micro_batch_size):
    """The second forward pass leaves out the patches that the first one left out."""
    torch.manual_seed(0)
    encoder = DualEncoder(open_clip_tower(0.5), from_open_clip(tiny.config()).text_tower).train()
    loss = CombinedLoss(ContrastiveLoss())
    batch = tiny.batch()
    batch.images, batch.tokens = tiny.pixels(12), tiny.captions(12, longest=14)
    batch.labels, batch.keys = torch.full((12,), -100), tuple("abcdefghijkl")

    def gradients(embed) -> dict[str, torch.Tensor]:
        encoder.zero_grad()
        torch.manual_seed(3)
        loss(embed(), batch)["loss"].backward()
        return {name: p.grad.clone() for name, p in encoder.named_parameters()}

    at_once = gradients(
        lambda: _join([encoder(part) for part in split_batch(batch, micro_batch_size)])
    )
    in_parts = gradients(lambda: embed_in_micro_batches(encoder, batch, micro_batch_size))
    for name, gradient in at_once.items():
        torch.testing.assert_close(in_parts[name], gradient, msg=name)
    assert at_once["image_tower.visual.conv1.weight"].abs().max() > 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: open_clip_tower(1.0), "0 up to but not 1"),
        (lambda: timm_tower(-0.1), "0 up to but not 1"),
        (lambda: OpenClipImageTower(tiny.config(tiny.RESNET), patch_dropout=0.5), "no patches"),
        (lambda: TimmImageTower("test_resnet", 24, patch_dropout=0.5), "leave out patches"),
    ],
)
def test_what_cannot_be(make, message):
    with pytest.raises(ConfigError, match=f"patch_dropout: .*{message}"):
        make()
