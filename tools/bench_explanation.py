"""Measure whether explanations point to the half of an image that a text names.

    clipkit demo --output runs/demo
    python tools/bench_explanation.py --model runs/demo/last.ckpt --output explanation.json

An image shows two emoji of the training data, one in each half, and the text names one of them. A
method hits if more than half of its heat map's sum is in that half; chance is 50 %. ``knows`` is
what the model can tell at all: the named emoji alone is more similar to the text than the other.

For words, the image shows one emoji, and the text names it and another one, in either order. A
method hits if the words of the emoji that is there weigh more on average.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import platform
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from clipkit.data.demo.concepts import DRAWING_PIXELS, drawing, load_concepts
from clipkit.data.demo.emoji import split_concepts
from clipkit.errors import ConfigError
from clipkit.models import DualEncoder, Explanation, load_model

METHODS = ("attention", "grad_cam", "occlusion")
TOP = DRAWING_PIXELS // 2


def composed(left: Image.Image | None, right: Image.Image | None) -> Image.Image:
    """Return a square white image with a drawing in each half."""
    canvas = Image.new("RGB", (2 * DRAWING_PIXELS, 2 * DRAWING_PIXELS), "white")
    for half, image in enumerate((left, right)):
        if image is not None:
            canvas.paste(image, (half * DRAWING_PIXELS, TOP))
    return canvas


def share_of_half(explanation: Explanation, half: int) -> float:
    """Return the share of a heat map in its left (0) or right (1) half; 0.5 if it is empty."""
    columns = explanation.heat_map.sum(0)
    edges = torch.linspace(0, 2, len(columns) + 1)  # a column in the middle counts for both
    in_right = (edges[1:].clamp(min=1) - edges[:-1].clamp(min=1)) / (edges[1:] - edges[:-1])
    right = float((columns * in_right).sum())
    total = float(columns.sum())
    share = right / total if total else 0.5
    return share if half else 1 - share


def measure(encoder: DualEncoder, pairs: list, methods: tuple[str, ...]) -> dict[str, object]:
    shares: dict[str, list[float]] = {name: [] for name in methods}
    seconds = dict.fromkeys(methods, 0.0)
    knows = []
    for left, right in pairs:
        image = composed(left[1], right[1])
        alone = [composed(left[1], None), composed(None, right[1])]
        texts = [left[0], right[0]]
        encoded = encoder.encode(texts, alone)
        similarities = encoded.texts @ encoded.images.T
        for half, text in enumerate(texts):
            knows.append(bool(similarities[half, half] > similarities[half, 1 - half]))
            for name in methods:
                start = time.perf_counter()
                shares[name].append(share_of_half(encoder.explain(image, text, name), half))
                seconds[name] += time.perf_counter() - start
    return {
        "knows": summary(np.array(knows, dtype=float)),
        **{
            name: {
                **summary(hits(values)),
                "hit_rate_where_known": summary(hits(values)[np.array(knows)])["rate"],
                "mean_share": float(np.mean(values)),
                "same_half_as_occlusion": float(np.mean(hits(values) == hits(shares["occlusion"]))),
                "seconds_per_pair": seconds[name] / len(values),
            }
            for name, values in shares.items()
        },
    }


def measure_words(encoder: DualEncoder, pairs: list, method: str) -> dict[str, float]:
    """Return how often the words of the emoji that is there weigh more than those of another."""
    margins = []
    for there, other in pairs:
        for names in ((there[0], other[0]), (other[0], there[0])):
            words = encoder.explain(there[1], " and ".join(names), method).words
            weights = np.array([weight for _, weight in words])
            first, second = weights[: len(names[0].split())], weights[-len(names[1].split()) :]
            means = first.mean(), second.mean()
            is_first = names[0] == there[0]
            margins.append(0.5 + (means[0] - means[1]) * (1 if is_first else -1))
    return summary(hits(margins))


def hits(values: list[float]) -> np.ndarray:
    return (np.array(values) > 0.5).astype(float) + 0.5 * (np.array(values) == 0.5)


def summary(values: np.ndarray) -> dict[str, float]:
    """Return the mean with the half width of its 95 % interval."""
    return {
        "rate": float(values.mean()),
        "plus_minus": float(1.96 * values.std() / math.sqrt(len(values))),
    }


def fitting(encoder: DualEncoder, image: Image.Image) -> tuple[str, ...]:
    """Return the methods that fit the towers."""
    found = []
    for name in METHODS:
        try:
            encoder.explain(image, "a dog", name)
        except ConfigError:
            continue
        found.append(name)
    return tuple(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", action="append", required=True)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rng = np.random.default_rng(args.seed)
    split = split_concepts(load_concepts())
    concepts = [c for c in split.both_artists if c.category != "Flags"]
    drawn = []
    for number in rng.permutation(len(concepts)):
        data = drawing(concepts[number], "twemoji")
        if data is not None and len(drawn) < 2 * args.pairs:
            image = Image.open(io.BytesIO(data)).convert("RGBA")
            canvas = Image.new("RGBA", image.size, "white")
            canvas.alpha_composite(image)
            drawn.append((concepts[number].name, canvas.convert("RGB")))
    pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
    results = {}
    for name in args.model:
        encoder = load_model(name, "cpu").encoder
        methods = fitting(encoder, composed(*[image for _, image in pairs[0]]))
        results[name] = measure(encoder, pairs, methods)
        results[name]["words"] = {
            "rollout": measure_words(encoder, pairs, methods[0]),
            "occlusion": measure_words(encoder, pairs, "occlusion"),
        }
        print(name, json.dumps(results[name], indent=2), flush=True)
    facts = {"pairs": len(pairs), "texts": 2 * len(pairs), "seed": args.seed, "chance": 0.5}
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    args.output.write_text(json.dumps({**facts, **versions, "models": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
