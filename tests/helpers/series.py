"""A further modality made up for tests: series of a few sensors, as NumPy files."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from torch import Tensor, nn

from clipkit.data import ModalityField, read_array
from clipkit.models import SignalTower
from tests.helpers.factories import pair, write_shard

CHANNELS, LENGTH = 2, 8


@final
class Series(ModalityField):
    """A random stretch of a series of numbers, and noise."""

    def __init__(self, name: str = "series", on_error: str = "skip", length: int = LENGTH) -> None:
        super().__init__(name, ["npy"], on_error)  # type: ignore[arg-type]
        self.length = length

    def read(self, data: bytes, rng: np.random.Generator) -> Tensor:
        values = read_array(data).astype(np.float32)
        start = int(rng.integers(values.shape[1] - self.length + 1))
        noise = rng.normal(size=(CHANNELS, self.length))
        stretch = values[:, start : start + self.length] + 0.01 * noise
        return torch.from_numpy(stretch.astype(np.float32))

    def empty(self) -> Tensor:
        return torch.zeros(CHANNELS, self.length)


@final
class SeriesTower(SignalTower):
    """A convolution, and optionally a batch norm, then a mean over time."""

    def __init__(
        self, embedding_dim: int = 16, length: int = LENGTH, norm: bool = False, seed: int = 0
    ) -> None:
        super().__init__()
        self.embedding_dim, self.length, self.norm, self.seed = embedding_dim, length, norm, seed
        self.input_shape = (CHANNELS, length)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.first = nn.Conv1d(CHANNELS, 8, 3)
            self.normed = nn.BatchNorm1d(8) if norm else nn.Identity()
            self.projection = nn.Linear(8, embedding_dim, bias=False)

    def forward(self, values: Tensor) -> Tensor:
        features: Tensor = self.projection(self.normed(self.first(values)).relu().mean(2))
        return features

    def config(self) -> dict[str, Any]:
        names = ("embedding_dim", "length", "norm", "seed")
        return {name: getattr(self, name) for name in names}

    def layer_groups(self) -> list[list[str]]:
        names = [name for name, _ in self.named_parameters()]
        return [[n for n in names if "projection" not in n], ["projection.weight"]]


def npy(values: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, np.asarray(values))
    return out.getvalue()


def members(index: int) -> dict[str, bytes]:
    """Image, caption and series of a sample; every third has no series, every fifth no image,
    every seventh no caption."""
    rng = np.random.default_rng(index)
    steps = np.arange(LENGTH + 3) * (1 + index % 4)
    own = {**pair(index), "npy": npy(np.sin(steps)[None] + rng.normal(size=(CHANNELS, 1)))}
    missing = [name for every, name in ((3, "npy"), (5, "jpg"), (7, "txt")) if index % every == 1]
    return {name: data for name, data in own.items() if name not in missing}


def write_series(folder: Path, counts: Sequence[int]) -> Path:
    """Shards ``train/*.tar`` of images, captions and series, each of which a sample may lack."""
    number = 0
    for shard, count in enumerate(counts):
        samples = [(f"{number + i:06d}", members(number + i)) for i in range(count)]
        write_shard(folder / "train" / f"{shard:05d}.tar", samples)
        number += count
    return folder
