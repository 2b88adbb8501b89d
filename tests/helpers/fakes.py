"""The smallest tokenizer, transform and caption picker that keep the contracts."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import fields
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image

from clipkit.data import FaultOptions, Mixture, OrderOptions, PairStream, SampleOptions, ShardIndex
from clipkit.errors import SampleError

GROUPS = {"order": OrderOptions, "samples": SampleOptions, "faults": FaultOptions}


def flat_stream(data: ShardIndex | Mixture, **options: Any) -> PairStream:
    """A ``PairStream`` whose nested options are given by name, as ``shuffle=False``."""
    for group, kind in GROUPS.items():
        names = options.keys() & {field.name for field in fields(kind)}
        options[group] = kind(**{name: options.pop(name) for name in names})
    return PairStream(data, **options)


class ByteTokenizer:
    pad_id = 0
    context_length = 32

    def encode(self, text: str) -> list[int]:
        return [1, *(byte + 3 for byte in text.encode()[: self.context_length - 2]), 2]


class NoisyTransform:
    """Pixels of the picture plus noise, so that a wrong random number shows."""

    image_size = 8

    def __call__(self, data: bytes, rng: np.random.Generator) -> torch.Tensor:
        pixels = _pixels(data) + rng.integers(0, 50, (8, 8, 3))
        return torch.from_numpy(pixels.clip(0, 255).astype(np.uint8)).permute(2, 0, 1).contiguous()


@lru_cache(1024)
def _pixels(data: bytes) -> np.ndarray:
    """Decode each image once: streams of a test make the same samples many times."""
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((8, 8))
    except OSError as error:
        raise SampleError(f"broken image: {error}") from error
    return np.asarray(image, dtype=np.int64)


def first_text(members: Mapping[str, bytes], rng: np.random.Generator) -> str:
    if "txt" not in members:
        raise SampleError(f"no caption: expected a member .txt; got {', '.join(members)}")
    rng.random()
    return members["txt"].decode()
