"""Measure what a joint encoder costs: per training step, and per query that is re-ranked.

    python tools/bench_joint.py --output joint.json

The model is that of configs/experiment/joint_tiny.yaml with random weights, the batch artificial:
64 images of 64 pixels and captions of 8 to 20 tokens. Steps of all objectives take turns, and each
is forward pass, backward pass and AdamW on the parameters that it has. Ratios are those of the
medians to the dual encoder's contrastive step. A query is a text among 1,000 images whose
embeddings, and for re-ranking tokens, are in memory.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
import yaml

from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    DistillationLoss,
    MaskedWordDistillationLoss,
    MaskedWordLoss,
    MatchingDistillationLoss,
    MatchingLoss,
    MomentumTeacher,
    WeightedTerm,
    follow_student,
    update_teachers,
)
from clipkit.models import (
    CrossAttentionFusion,
    JointEncoder,
    WordHead,
    from_open_clip,
    pair_scores,
    with_fusion,
)
from clipkit.types import Batch

CONFIG = Path(__file__).parents[1] / "configs/experiment/joint_tiny.yaml"
WORDS: dict[str, Any] = {"mask_id": 49405, "special_ids": [0, 49406, 49407]}
BATCH, SHORTEST, LONGEST, NUM_IMAGES = 64, 8, 20, 1000


def make_model() -> JointEncoder:
    """Return the model of the configuration, always with the same weights."""
    torch.manual_seed(0)
    given = yaml.safe_load(CONFIG.read_text())["model"]["encoder"]["init_args"]
    encoder = from_open_clip(given["encoder"]["init_args"]["name"])
    fusion = CrossAttentionFusion(**given["fusion"]["init_args"])
    return with_fusion(encoder, fusion, WordHead(**given["word_head"]["init_args"]))


def make_batch(size: int, pixels: int) -> Batch:
    """Return artificial pairs."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(
        0, 256, (size, 3, pixels, pixels), dtype=torch.uint8, generator=generator
    )
    tokens = torch.zeros(size, LONGEST, dtype=torch.int64)
    for row in range(size):
        end = SHORTEST - 1 + row % (LONGEST - SHORTEST + 1)
        tokens[row, 0], tokens[row, end] = 49406, 49407
        tokens[row, 1:end] = torch.randint(1, 49000, (end - 1,), generator=generator)
    return Batch(images, tokens, torch.full((size,), -100), tuple(map(str, range(size))))


def objectives() -> dict[str, CombinedLoss]:
    """Return the objectives that are compared, by name."""
    matching = {"matching": WeightedTerm(MatchingLoss())}
    words = {"words": WeightedTerm(MaskedWordLoss(**WORDS), 0.5)}
    distilled = {
        "matching_teacher": WeightedTerm(MatchingDistillationLoss(), 0.4),
        "word_teacher": WeightedTerm(MaskedWordDistillationLoss(**WORDS), 0.4),
        "similarities": WeightedTerm(DistillationLoss(), 0.4),
    }
    return {
        "dual encoder, contrastive": CombinedLoss(ContrastiveLoss()),
        "joint encoder, contrastive": CombinedLoss(ContrastiveLoss()),
        "with matching": CombinedLoss(ContrastiveLoss(), terms=matching),
        "with matching and words": CombinedLoss(ContrastiveLoss(), terms={**matching, **words}),
        "the same, distilled from its average": CombinedLoss(
            ContrastiveLoss(), terms={**matching, **words, **distilled}, teacher=MomentumTeacher()
        ),
    }


def make_step(name: str, loss: CombinedLoss, batch: Batch) -> Callable[[], None]:
    """Return a function that makes an optimizer step."""
    joint = make_model()
    model = joint.dual() if name.startswith("dual") else joint
    model.train()
    follow_student(loss, model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def step() -> None:
        loss(model(batch), batch)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        update_teachers(loss, model)

    return step


def timed(calls: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each call in all rounds but a first one; the calls take turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if number:
                seconds[name].append(time.perf_counter() - begin)
    return seconds


@torch.no_grad()
def make_queries(batch: Batch, num_best: int) -> dict[str, Callable[[], object]]:
    """Return functions that answer a query of one text."""
    joint = make_model().eval()
    embeddings = torch.randn(NUM_IMAGES, joint.embedding_dim)
    text = batch.tokens[:1, :SHORTEST]
    images = batch.images[:num_best]
    tokens = joint.read_image(images).tokens
    pairs = torch.stack([torch.arange(num_best), torch.zeros(num_best, dtype=torch.int64)], 1)

    @torch.no_grad()
    def dual() -> torch.Tensor:
        return (joint.encode_text(text) @ embeddings.T).topk(num_best).indices

    @torch.no_grad()
    def reranked() -> torch.Tensor:
        read = joint.read_text(text)
        (read.embedding @ embeddings.T).topk(num_best)
        return pair_scores(joint, tokens, read.tokens, pairs).argsort()

    @torch.no_grad()
    def from_pixels() -> torch.Tensor:
        read = joint.read_text(text)
        (read.embedding @ embeddings.T).topk(num_best)
        seen = joint.read_image(images).tokens
        return pair_scores(joint, seen, read.tokens, pairs).argsort()

    return {
        "dual encoder": dual,
        f"best {num_best} re-ranked, tokens of images in memory": reranked,
        f"best {num_best} re-ranked, images read again": from_pixels,
    }


def summary(seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    """Return median, least and greatest milliseconds, and the ratio to the first."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    first = next(iter(medians.values()))
    return {
        name: {
            "median_ms": 1000 * medians[name],
            "least_ms": 1000 * min(values),
            "greatest_ms": 1000 * max(values),
            "ratio": medians[name] / first,
        }
        for name, values in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch-size", type=int, default=BATCH)
    parser.add_argument("--steps", type=int, default=7, help="timed steps of each objective")
    parser.add_argument("--queries", type=int, default=50, help="timed queries of each kind")
    parser.add_argument("--num-best", type=int, default=20)
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    pixels = make_model().image_tower.image_size
    batch = make_batch(args.batch_size, pixels)
    steps = {name: make_step(name, loss, batch) for name, loss in objectives().items()}
    queries = make_queries(make_batch(max(args.num_best, 1), pixels), args.num_best)
    result = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "machine": platform.processor() or platform.machine(),
        "batch_size": args.batch_size,
        "steps": summary(timed(steps, args.steps)),
        "queries": summary(timed(queries, args.queries)),
    }
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
