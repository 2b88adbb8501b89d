"""Images of two emoji, and small encoders that are trained to recognise both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from itertools import permutations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from clipkit.data.demo.concepts import drawing, load_concepts
from clipkit.models import DualEncoder
from clipkit.models.inputs import tokenizer_of

NAMES = ("red apple", "blue heart", "sun", "deciduous tree", "locomotive", "penguin")
PAIRS = tuple(permutations(range(len(NAMES)), 2))
"""The emoji on the left and on the right of an image."""
GREY = (122, 116, 104)
"""The mean colour of CLIP."""
_SIZE = 16


@cache
def _emoji(name: str) -> Image.Image:
    concept = next(concept for concept in load_concepts() if concept.name == name)
    image = Image.open(io.BytesIO(drawing(concept, "twemoji"))).convert("RGBA")
    return image.resize((_SIZE, _SIZE))


def image(pair: tuple[int, int], size: int = 32, tops: tuple[int, int] = (8, 8)) -> Image.Image:
    """Return an image whose halves show an emoji each, by default at half of the height."""
    canvas = Image.new("RGB", (2 * _SIZE, 2 * _SIZE), GREY)
    for half, (number, top) in enumerate(zip(pair, tops, strict=True)):
        emoji = _emoji(NAMES[number])
        canvas.paste(emoji, (half * _SIZE, top), emoji)
    return canvas.resize((size, size))


def trained(encoder: DualEncoder, steps: int) -> DualEncoder:
    """Train an encoder until it recognises both emoji of an image, wherever they are."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    size = encoder.image_tower.image_size
    # texts that differ from the first step on; most of all steps would be those of unused tokens
    embedding = encoder.text_tower.text.token_embedding.requires_grad_(False)
    torch.nn.init.normal_(embedding.weight, std=0.3)
    tokens = tokenizer_of(encoder.text_tower)(NAMES)
    trained = [value for value in encoder.train().parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=3e-3)
    for _ in range(steps):
        pairs = torch.from_numpy(np.stack([rng.permutation(len(NAMES))[:2] for _ in range(24)]))
        tops = rng.integers(0, _SIZE + 1, (24, 2)).tolist()
        images = [
            image(tuple(pair), size, tuple(top))
            for pair, top in zip(pairs.tolist(), tops, strict=True)
        ]
        pixels = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in images])
        targets = F.one_hot(pairs, len(NAMES)).sum(1) / 2
        logits = 10 * encoder.encode_image(pixels) @ encoder.encode_text(tokens).T
        loss = F.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder.eval()


def hit_rate(
    encoder: DualEncoder, method: str, pairs: Sequence[tuple[int, int]] = PAIRS[::2]
) -> float:
    """Return the share of texts whose emoji is in the half with the larger part of the heat map."""
    hits = []
    for pair in pairs:
        for half in (0, 1):
            explanation = encoder.explain(
                image(pair, encoder.image_tower.image_size), NAMES[pair[half]], method
            )
            columns = explanation.heat_map.shape[1]
            halves = explanation.heat_map.sum(0).view(2, columns // 2).sum(1)
            hits.append(float(halves[half] > halves[1 - half]))
    return sum(hits) / len(hits)
