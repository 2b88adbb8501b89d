"""Small images as files."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image


def photo(width: int = 640, height: int = 480, seed: int = 0) -> Image.Image:
    """Soft shapes, edges and some grain: what a photo is to a JPEG."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
    picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    pixels = np.asarray(picture).astype(np.int16)
    for _ in range(12):
        left, top = rng.integers(width), rng.integers(height)
        pixels[top : top + 60, left : left + 90] += rng.integers(-60, 60, 3, dtype=np.int16)
    pixels += rng.integers(-6, 7, pixels.shape, dtype=np.int16)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, format: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, format=format, **options)
    return out.getvalue()


def color(pixels: torch.Tensor) -> list[int]:
    """The mean colour, rounded."""
    return pixels.float().mean((1, 2)).round().int().tolist()
