"""Images of coloured squares, and a fusion that is trained to find the one that a text names."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from clipkit.models import Fusion, JointEncoder, explain_matching, with_fusion
from clipkit.models.inputs import tokenizer_of
from clipkit.models.joint.blocks import Attention
from tests.helpers import tiny_models

COLORS = {"red": (220, 40, 40), "green": (40, 190, 60), "blue": (50, 70, 230),
          "yellow": (235, 220, 60)}  # fmt: skip
TEXTS = [f"a {name} square" for name in COLORS]
SIDE = 4
CELLS = SIDE * SIDE
_PIXELS = 8  # of a cell, which is a patch of the tower
_GREY = (122, 116, 104)
_IMAGES, _BATCH, _RATE = 512, 8, 3e-3
_SHARPER = 3.0
_LEARNED = 0.25  # mean loss of 20 steps


def image(parts: dict[int, int]) -> Image.Image:
    """Return an image with squares of some colours, by the number of the cell."""
    pixels = np.full((SIDE, _PIXELS, SIDE, _PIXELS, 3), _GREY, np.uint8)
    for cell, color in parts.items():
        pixels[cell // SIDE, :, cell % SIDE] = list(COLORS.values())[color]
    return Image.fromarray(pixels.reshape(SIDE * _PIXELS, SIDE * _PIXELS, 3))


def drawn(rng: np.random.Generator) -> dict[int, int]:
    """Return cells and colours of two squares."""
    cells, colors = rng.permutation(CELLS)[:2], rng.permutation(len(COLORS))[:2]
    return {int(cell): int(color) for cell, color in zip(cells, colors, strict=True)}


def untrained(fusion: Fusion) -> JointEncoder:
    """Return towers with random weights, which stay as they are, and a fusion."""
    vision = {**tiny_models.VIT, "layers": 1, "image_size": SIDE * _PIXELS}
    dual = tiny_models.encoder(vision, {**tiny_models.TEXT, "vocab_size": 49408, "layers": 1})
    # texts that differ from the first step on
    torch.nn.init.normal_(dual.text_tower.text.token_embedding.weight, std=0.3)
    joint = with_fusion(dual, fusion)
    for part in joint.fusion.modules():
        if isinstance(part, Attention):  # attention that is not even: a short plateau
            part.query.weight.data *= _SHARPER
            part.key_value.weight.data[: joint.fusion.width] *= _SHARPER
    return joint.eval()


def trained(fusion: Fusion, most_steps: int = 600, seed: int = 0) -> JointEncoder:
    """Train a fusion until it knows which colours an image has."""
    joint, rng = untrained(fusion), np.random.default_rng(seed)
    scenes = [drawn(rng) for _ in range(_IMAGES)]
    pixels = torch.from_numpy(np.stack([np.asarray(image(parts)) for parts in scenes]))
    labels = torch.tensor([[float(n in parts.values()) for n in range(4)] for parts in scenes])
    with torch.no_grad():
        images = joint.read_image(pixels.permute(0, 3, 1, 2)).tokens
        texts = joint.read_text(tokenizer_of(joint.text_tower)(TEXTS)).tokens
    parts = (joint.token_inputs, joint.fusion, joint.matching)
    optimizer = torch.optim.AdamW([p for part in parts for p in part.parameters()], _RATE)
    losses: list[float] = []
    while len(losses) < most_steps and not (len(losses) > 20 and np.mean(losses[-20:]) < _LEARNED):
        rows = torch.from_numpy(rng.permutation(_IMAGES)[:_BATCH])
        pairs = {
            "image": images.rows(rows.repeat_interleave(len(TEXTS))),
            "text": texts.rows(torch.arange(len(TEXTS)).repeat(_BATCH)),
        }
        logits = joint.match(joint.fuse(pairs).pooled)
        loss = F.binary_cross_entropy_with_logits(logits, labels[rows].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return joint


class Found(NamedTuple):
    """How well maps find the square that a text names.

    Attributes:
        hits: Share of images in which it is the most relevant cell.
        word_hits: The same for the map of the word that names its colour.
        word: Share of texts whose heaviest word is that of the colour.
        most: Mean drop of the logit without the most relevant cell.
        least: The same without the least relevant one.
    """

    hits: float
    word_hits: float
    word: float
    most: float
    least: float


def found(joint: JointEncoder, method: str, count: int = 16, seed: int = 99) -> Found:
    """Explain matching images and texts that were not trained on."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(count):
        parts = drawn(rng)
        cell, color = next(iter(parts.items()))
        explanation = explain_matching(joint, image(parts), TEXTS[color], method)
        of_cells = _per_cell(explanation.caption.heat_map)
        drops = [
            explanation.caption.score - _logit(joint, parts, int(hidden), TEXTS[color])
            for hidden in (of_cells.argmax(), of_cells.argmin())
        ]
        heaviest = max(explanation.caption.words, key=lambda word: word.weight)
        rows.append([
            int(of_cells.argmax()) == cell,
            int(_per_cell(explanation.word_maps[1]).argmax()) == cell,
            heaviest.word in COLORS,
            *drops,
        ])  # fmt: skip
    return Found(*np.mean(rows, axis=0).tolist())


def _per_cell(heat_map: torch.Tensor) -> torch.Tensor:
    return F.adaptive_avg_pool2d(heat_map[None], (SIDE, SIDE))[0].flatten()


def _logit(joint: JointEncoder, parts: dict[int, int], hidden: int, text: str) -> float:
    """Return the logit with a cell painted grey."""
    shown = image({cell: color for cell, color in parts.items() if cell != hidden})
    pixels = torch.from_numpy(np.array(shown)).permute(2, 0, 1)[None]
    with torch.no_grad():
        read = {
            "image": joint.read_image(pixels).tokens,
            "text": joint.read_text(tokenizer_of(joint.text_tower)([text])).tokens,
        }
        return float(joint.match(joint.fuse(read).pooled))
