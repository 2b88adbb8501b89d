"""Small real inputs that the tests make for themselves."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

COLORS = {
    "red": (220, 30, 30),
    "green": (20, 190, 60),
    "blue": (30, 60, 230),
    "yellow": (240, 220, 30),
}


@lru_cache(4096)
def image_bytes(
    color: str = "red", size: tuple[int, int] = (40, 32), seed: int = 0, format: str = "JPEG"
) -> bytes:
    """A coloured, slightly noisy picture of ``size`` (width, height)."""
    rng = np.random.default_rng(seed)
    pixels = np.array(COLORS[color], dtype=np.int16) + rng.integers(-20, 20, (size[1], size[0], 3))
    out = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(out, format=format)
    return out.getvalue()


def pair(index: int, *, label: bool = True) -> dict[str, bytes]:
    """The members of sample ``index``: a picture, its caption, its class and some JSON."""
    color = list(COLORS)[index % len(COLORS)]
    facts = {
        "color": color,
        "number": index,
        "name": f"{color} square",
        "keywords": [color, "square", str(index)],
    }
    members = {
        "jpg": image_bytes(color, seed=index),
        "txt": f"a {color} square number {index}".encode(),
        "json": json.dumps(facts).encode(),
    }
    if label:
        members["cls"] = str(index % len(COLORS)).encode()
    return members


def write_shard(path: Path, samples: Sequence[tuple[str, Mapping[str, bytes]]]) -> Path:
    """A tar whose members are ``KEY.EXTENSION``, in order."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    return path


def write_shards(
    folder: Path, counts: Sequence[int], *, label: bool = True, start: int = 0
) -> list[Path]:
    """One shard for each of ``counts``, with samples numbered through."""
    paths, number = [], start
    for shard, count in enumerate(counts):
        samples = [(f"{number + i:06d}", pair(number + i, label=label)) for i in range(count)]
        paths.append(write_shard(folder / f"{shard:05d}.tar", samples))
        number += count
    return paths
