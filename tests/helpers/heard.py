"""Samples of which any may lack image, captions or sound, and an encoder of the three."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from clipkit.mel import MelOptions
from clipkit.models import MultimodalEncoder, TcnTower, with_towers
from tests.helpers import tiny
from tests.helpers.factories import image_bytes, write_shard
from tests.helpers.sounds import sound_bytes

MEL = MelOptions(
    sample_rate=8000, num_mels=8, f_min=50, f_max=4000, window=256, hop=80, num_frames=20
)
COLOURS = ("red", "green", "blue", "yellow")
MODALITIES = ("image", "sound", "text")


def encoder(seed: int = 0) -> MultimodalEncoder:
    """Random weights, always the same."""
    torch.manual_seed(seed)
    tower = TcnTower(16, MEL, width=8, num_blocks=1, mean=-40.0, std=20.0, dropout=0.0)
    return with_towers(tiny.encoder(), {"sound": tower})


def sample(index: int) -> dict[str, bytes]:
    """Every third has no sound, every fifth no image, every seventh no caption; some have two, or
    one that another sample has too."""
    colour = COLOURS[index % 4]
    captions = [f"a {colour} square number {index // 2}", f"number {index}"]
    members = {
        "jpg": image_bytes(colour, seed=index),
        "txt": "\n".join(captions[: 1 + index % 2]).encode(),
        "wav": sound_bytes(0.2, hz=300.0 + 100 * index, seed=index),
        "cls": str(index % 4).encode(),
        "json": json.dumps({"kind": colour}).encode(),
    }
    missing = [name for every, name in ((3, "wav"), (5, "jpg"), (7, "txt")) if index % every == 1]
    return {name: data for name, data in members.items() if name not in missing}


def write_heard(folder: Path, counts: tuple[int, ...] = (13, 10)) -> Path:
    """Shards in CLIP_benchmark's layout, split "test"."""
    number = 0
    for shard, count in enumerate(counts):
        samples = [(f"{number + i:04d}", sample(number + i)) for i in range(count)]
        write_shard(folder / "test" / f"{shard}.tar", samples)
        number += count
    (folder / "test" / "nshards.txt").write_text(f"{len(counts)}\n")
    (folder / "dataset_type.txt").write_text("retrieval\n")
    return folder
