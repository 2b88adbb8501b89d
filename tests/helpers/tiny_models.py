"""Tiny open_clip configurations of every family of towers."""

from __future__ import annotations

from copy import deepcopy

import torch

from clipkit.models import DualEncoder, from_open_clip
from clipkit.types import Batch

VIT = {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32}
RESNET = {"layers": [1, 1, 1, 1], "width": 8, "head_width": 8, "image_size": 32}
TIMM_CONV = {
    "timm_model_name": "resnet10t",
    "timm_model_pretrained": False,
    "timm_pool": "avg",
    "timm_proj": "linear",
    "image_size": 64,
}
TIMM_VIT = {
    "timm_model_name": "test_vit",
    "timm_pool": "token",
    "timm_proj": "linear",
    "image_size": 64,
}
TEXT = {"context_length": 16, "vocab_size": 100, "width": 32, "heads": 2, "layers": 2}


def config(vision: dict = VIT, text: dict = TEXT, **top: object) -> dict:
    """An open_clip configuration of width 32."""
    return deepcopy({"embed_dim": 24, "vision_cfg": vision, "text_cfg": text, **top})


def encoder(vision: dict = VIT, text: dict = TEXT, **top: object) -> DualEncoder:
    """A dual encoder of such a configuration, in evaluation mode, always with the same weights."""
    torch.manual_seed(0)
    return from_open_clip(config(vision, text, **top)).eval()


def pixels(count: int = 3, size: int = 32) -> torch.Tensor:
    """Random uint8 pictures."""
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def captions(count: int = 3, length: int = 16, longest: int = 9) -> torch.Tensor:
    """Captions of different lengths up to ``longest``: start 98, end 99, padded with 0."""
    generator = torch.Generator().manual_seed(2)
    tokens = torch.zeros(count, length, dtype=torch.int64)
    for row in range(count):
        end = longest - 1 - row
        tokens[row, :end] = torch.randint(1, 98, (end,), generator=generator)
        tokens[row, 0], tokens[row, end] = 98, 99
    return tokens


def batch(labels: tuple[int, ...] = (0, 1, -100), size: int = 32) -> Batch:
    """Three pairs."""
    keys = ("a", "b", "c")
    return Batch(pixels(3, size), captions(3)[:, :9], torch.tensor(labels), keys)
