"""An encoder that reads images of any shape, and shards of such images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipkit.data import NaFlexEvalTransform
from clipkit.losses import CombinedLoss, ContrastiveLoss
from clipkit.models import DualEncoder, TimmNaFlexTower
from clipkit.optim import WarmupCosine
from clipkit.patches import to_patches
from clipkit.types import Batch
from tests.helpers import tiny
from tests.helpers.factories import COLORS, image_bytes, pair, write_shard

if TYPE_CHECKING:  # Lightning is imported by what trains
    from clipkit.training import ContrastiveModule

MAX_TOKENS = 12
PATCH_SIZE = 8
SIZES = [(40, 32), (96, 16), (16, 120), (300, 200), (9, 9), (64, 64), (33, 71)]
"""Widths and heights."""


def encoder(max_tokens: int = MAX_TOKENS, model: str = "test_vit", **options: bool) -> DualEncoder:
    """Always the same weights."""
    text = tiny.encoder().text_tower
    torch.manual_seed(0)
    tower = TimmNaFlexTower(
        model, tiny.CONFIG["embed_dim"], max_tokens, patch_size=PATCH_SIZE, **options
    )
    return DualEncoder(tower, text)


def image(index: int, format: str = "JPEG") -> bytes:
    color = list(COLORS)[index % len(COLORS)]
    return image_bytes(color, SIZES[index % len(SIZES)], seed=index, format=format)


def images() -> list[Tensor]:
    """Pixels of one image of each size."""
    transform = NaFlexEvalTransform(PATCH_SIZE, MAX_TOKENS)
    return [transform.of_file(image(index)) for index in range(len(SIZES))]


def batch() -> Batch:
    """Pairs of ``images``."""
    pixels, grids = to_patches(images(), PATCH_SIZE)
    return replace(tiny.batch(size=len(SIZES)), images=pixels, grids=grids)


def module(**options: int) -> ContrastiveModule:
    """A module with the softmax loss."""
    from clipkit.training import ContrastiveModule

    loss = CombinedLoss(ContrastiveLoss())
    return ContrastiveModule(encoder(), loss, torch.optim.AdamW, WarmupCosine(0.1), **options)


def shards(folder: Path, counts: Sequence[int] = (9, 14), start: int = 0) -> Path:
    """Shards of images of seven shapes."""
    number = start
    for shard, count in enumerate(counts):
        samples = [(f"{n:06d}", pair(n) | {"jpg": image(n)}) for n in range(number, number + count)]
        write_shard(folder / f"{shard:05d}.tar", samples)
        number += count
    return folder
