"""Measure whether explanations of a matching logit find the square that a text names.

    PYTHONPATH=. python tools/bench_matching_maps.py --images 100 --seeds 3

Images of 4 x 4 patches show two squares of different colours, the text names one of them. A fusion
on frozen random towers is trained on the labels "the image has this colour" until it knows them (at
most 1,000 steps), then explained on other images. Chance is 1 of 16.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable

import numpy as np
import torch

from clipkit.models import CrossAttentionFusion, Fusion, JointEncoder, MergedFusion, match_pairs
from tests.helpers import planted_match

FUSIONS: dict[str, Callable[[], Fusion]] = {
    "cross, text attends, 2 layers": lambda: CrossAttentionFusion(32, 2, 2),
    "cross, text attends, 3 layers": lambda: CrossAttentionFusion(32, 3, 2),
    "cross, image attends, 2 layers": lambda: CrossAttentionFusion(32, 2, 2, "image", ["text"]),
    "merged, 3 layers": lambda: MergedFusion(32, 3, 2),
}


def accuracy(joint: JointEncoder, count: int) -> float:
    """Return the share of images and texts whose logit has the correct sign."""
    rng = np.random.default_rng(7)
    scenes = [planted_match.drawn(rng) for _ in range(count)]
    images = [planted_match.image(parts) for parts in scenes for _ in planted_match.TEXTS]
    labels = [n in parts.values() for parts in scenes for n in range(len(planted_match.TEXTS))]
    found = match_pairs(joint, images, planted_match.TEXTS * count) > 0
    return float((found == torch.tensor(labels)).float().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=100, help="explained images per fusion")
    parser.add_argument("--seeds", type=int, default=3, help="trained fusions of each kind")
    parser.add_argument("--fusions", nargs="+", choices=FUSIONS, default=list(FUSIONS))
    args = parser.parse_args()
    for name in args.fusions:
        make = FUSIONS[name]
        for seed in range(args.seeds):
            torch.manual_seed(seed)
            joint = planted_match.trained(make(), 1000, seed)
            row: dict[str, object] = {
                "fusion": name,
                "seed": seed,
                "accuracy": round(accuracy(joint, 100), 3),
            }
            for method in ("attention", "occlusion"):
                begin = time.perf_counter()
                found = planted_match.found(joint, method, args.images)
                row[method] = {key: round(value, 3) for key, value in found._asdict().items()}
                row[f"{method}_seconds"] = round((time.perf_counter() - begin) / args.images, 4)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
