"""Small data in CLIP_benchmark's WebDataset layout, and an encoder that can read it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipkit.models import DualEncoder, from_open_clip
from tests.helpers.factories import COLORS, image_bytes, write_shard

OPEN_CLIP = {
    "embed_dim": 24,
    "vision_cfg": {"layers": 2, "width": 32, "head_width": 8, "patch_size": 8, "image_size": 32},
    "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
CLASSES = (*COLORS, "striped", "dotted")
FORMATS = ("jpg", "png", "webp")


def tiny_encoder(seed: int = 0) -> DualEncoder:
    """Random weights behind open_clip's real tokenizer, in training mode."""
    torch.manual_seed(seed)
    return from_open_clip(OPEN_CLIP).train()


def picture(index: int, extension: str = "png") -> bytes:
    """A picture of its own: random rectangles on a coloured ground."""
    rng = np.random.default_rng(index)
    size = tuple(int(side) for side in rng.integers(34, 80, 2))
    image = Image.open(io.BytesIO(image_bytes(list(COLORS)[index % 4], size=size, seed=index)))
    pixels = np.array(image)
    for _ in range(4):
        top, left = rng.integers(0, size[1]), rng.integers(0, size[0])
        pixels[top : top + 20, left : left + 20] = rng.integers(0, 256, 3)
    out = io.BytesIO()
    kind = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[extension]
    Image.fromarray(pixels).save(out, kind, lossless=kind == "WEBP")
    return out.getvalue()


def captions(index: int) -> list[str]:
    """One to three captions that no other picture has."""
    return [f"picture {index} in the words {7 * index + k}" for k in range(1 + index % 3)]


def sample(index: int, *, label: bool = True, text: bool = True) -> dict[str, bytes]:
    extension = FORMATS[index % len(FORMATS)]
    members = {extension: picture(index, extension)}
    if text:
        members["txt"] = "\n".join(captions(index)).encode()
    if label:
        members["cls"] = str(index % len(CLASSES)).encode()
    return members


def write_layout(
    root: Path,
    counts: Sequence[int] = (7, 5),
    *,
    split: str = "test",
    task: str | None = "retrieval",
    classes: Sequence[str] = CLASSES,
    templates: Sequence[str] = ("a {c} picture", "{c}"),
    start: int = 0,
    label: bool = True,
    text: bool = True,
) -> Path:
    number = start
    for shard, count in enumerate(counts):
        ids = range(number, number + count)
        samples = [(f"s{i:07d}", sample(i, label=label, text=text)) for i in ids]
        write_shard(root / split / f"{shard}.tar", samples)
        number += count
    (root / split / "nshards.txt").write_text(f"{len(counts)}\n")
    if task is not None:
        (root / "dataset_type.txt").write_text(f"{task}\n")
    if classes:
        (root / "classnames.txt").write_text("\n".join(classes) + "\n")
    if templates:
        name = "zeroshot_classification_templates.txt"
        (root / name).write_text("\n".join(templates) + "\n")
    return root
