"""Objectives against each other: the same emoji, model, steps and seeds.

Every run trains a small model anew in a plain loop, and is evaluated on drawings that were not
trained on: recalls and label accuracy. Results are appended to ``--output``, one JSON object a
line;
runs that are there already are not repeated, so that several processes may share the seeds out and
write to one file::

    python tools/compare_objectives.py --seeds 0 1 2 --output objectives.jsonl
    python tools/compare_objectives.py --table --output objectives.jsonl
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import torch

from clipkit.data import PairStream, ShardIndex, TrainTransform
from clipkit.data.demo.emoji import DemoData, pack_demo
from clipkit.data.images.augment import ColorJitter
from clipkit.data.images.augment_geometry import RandomAffine
from clipkit.data.text.tokenizers import tokenizer_from_name
from clipkit.evaluation import LabelHeadClassification, Retrieval, ZeroShotClassification
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    GlobalContrastiveLoss,
    LabelAwareContrastiveLoss,
    LabelLoss,
    LinearSchedule,
    LossTerm,
    SigmoidLoss,
)
from clipkit.models import (
    DualEncoder,
    LabelHead,
    LinearLabelHead,
    OpenClipImageTower,
    OpenClipTextTower,
    PrototypeLabelHead,
)
from clipkit.optim import ParameterGroups, Progress, WarmupCosine

WIDTH = 128
SIZE = 32
MODEL = {
    "embed_dim": WIDTH,
    "vision_cfg": {"image_size": SIZE, "layers": [1, 1, 1, 1], "width": 16},
    "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 96, "heads": 2, "layers": 1},
}
TEMPLATES = ["{c}", "an emoji about {c}", "a drawing of {c}"]
"""Those of the data, by which zero-shot classification asks too."""

COLUMNS = {
    "image_to_text/recall_at_1": "image to text R@1",
    "image_to_text/recall_at_5": "R@5",
    "text_to_image/recall_at_1": "text to image R@1",
    "text_to_image/recall_at_5": "R@5",
    "zero_shot/top1": "zero-shot top 1",
    "head/top1": "head top 1",
}


@dataclass(frozen=True)
class Arm:
    """One objective.

    Args:
        loss: Makes the loss over pairs, given the number of training pairs and of steps.
        head: Makes the label head, given the names of the classes; None for none.
        batch_size: Pairs of a step.
        step_factor: How many steps it takes, times ``--steps``.
        start: Start of scale and bias.
    """

    loss: Callable[[int, int], LossTerm]
    head: Callable[[list[str]], LabelHead] | None = None
    batch_size: int = 128
    step_factor: int = 1
    start: tuple[float, float | None] = (1 / 0.07, None)


def small_global_loss(num_samples: int, num_steps: int) -> LossTerm:
    return GlobalContrastiveLoss(num_samples, LinearSchedule(1.0, 0.2, num_steps))


ARMS = {
    "contrastive": Arm(lambda *_: ContrastiveLoss()),
    "contrastive + linear head": Arm(
        lambda *_: ContrastiveLoss(), lambda names: LinearLabelHead(WIDTH, len(names))
    ),
    "contrastive + prototypes": Arm(
        lambda *_: ContrastiveLoss(), lambda names: PrototypeLabelHead(WIDTH, names, TEMPLATES)
    ),
    "UniCL": Arm(lambda *_: LabelAwareContrastiveLoss()),
    "sigmoid": Arm(lambda *_: SigmoidLoss(), start=(10.0, -10.0)),
    "contrastive, batch 16": Arm(lambda *_: ContrastiveLoss(), batch_size=16, step_factor=4),
    "global contrastive, batch 16": Arm(small_global_loss, batch_size=16, step_factor=4),
}


def make_encoder(arm: Arm, class_names: list[str]) -> DualEncoder:
    """The model with weights by the seed that was set."""
    scale, bias = arm.start
    image, text = OpenClipImageTower(MODEL), OpenClipTextTower(MODEL)
    head = None if arm.head is None else arm.head(class_names)
    limit = 100.0 if bias is None else None
    return DualEncoder(image, text, head, scale, bias, limit)


def make_stream(data: DemoData, tokenizer: Any, batch_size: int, seed: int) -> PairStream:
    changes = [RandomAffine(10, 0.05, (0.85, 1.1)), ColorJitter(0.2, 0.2, 0.2, 0.05, 0.8)]
    return PairStream(
        ShardIndex.from_urls(data.train),
        tokenizer=tokenizer,
        batch_size=batch_size,
        seed=seed,
        image_transform=TrainTransform(SIZE, (1.0, 1.0), (1.0, 1.0), augmentations=changes),
    )


def train(arm: Arm, data: DemoData, seed: int, options: argparse.Namespace) -> DualEncoder:
    """A plain loop."""
    num_steps = options.steps * arm.step_factor
    torch.manual_seed(seed)
    names = (data.root / "classnames.txt").read_text(encoding="utf-8").splitlines()
    encoder = make_encoder(arm, names)
    tokenizer = tokenizer_from_name(encoder.text_tower.tokenizer_name, 24)
    if encoder.label_head is not None:
        encoder.label_head.read_texts(tokenizer)
    label = None if arm.head is None else LabelLoss()
    pairs = arm.loss(data.num_training_pairs, num_steps)
    loss = CombinedLoss(pairs, label, label_weight=options.label_weight if label else 0.0)
    optimizer = ParameterGroups().optimizer(
        encoder, lambda groups: torch.optim.AdamW(groups, lr=options.lr, weight_decay=0.1)
    )
    schedule = WarmupCosine(warmup=0.1)
    stream = make_stream(data, tokenizer, arm.batch_size, seed)
    steps = count()
    encoder.train()
    while True:
        for batch in stream:
            step = next(steps)
            if step == num_steps:
                return encoder.eval()
            progress = Progress(step, num_steps)
            for group in optimizer.param_groups:
                group["lr"] = options.lr * schedule.at(progress)
            loss(encoder(batch), batch)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
            stream.commit(batch)


def evaluate(encoder: DualEncoder, data: DemoData) -> dict[str, float]:
    """Recalls and accuracies on the unseen drawings."""
    found = dict(Retrieval(data.unseen_drawings, ks=(1, 5)).run(encoder))
    zero_shot = ZeroShotClassification(data.unseen_drawings).run(encoder)
    found["zero_shot/top1"] = zero_shot["top1"]
    if encoder.label_head is not None:
        found["head/top1"] = LabelHeadClassification(data.unseen_drawings).run(encoder)["top1"]
    return {name: found[name] for name in COLUMNS if name in found}


def run_all(options: argparse.Namespace) -> None:
    data = pack_demo(options.data)
    for seed in options.seeds:
        for name in options.arms:
            if (name, seed) in {(r["arm"], r["seed"]) for r in read(options.output)}:
                continue
            start = time.monotonic()
            metrics = evaluate(train(ARMS[name], data, seed, options), data)
            result = {
                "arm": name,
                "seed": seed,
                "steps": options.steps * ARMS[name].step_factor,
                "seconds": round(time.monotonic() - start, 1),
                **metrics,
            }
            with options.output.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result) + "\n")
            print(json.dumps(result), flush=True)


def read(path: Path) -> list[dict[str, Any]]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines]


def table(results: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds, in percent, as Markdown."""
    rows = [f"| objective | seeds | {' | '.join(COLUMNS.values())} |"]
    rows.append("|---" * (len(COLUMNS) + 2) + "|")
    for arm in ARMS:
        # Two processes may have made the same run.
        runs = list({r["seed"]: r for r in results if r["arm"] == arm}.values())
        cells = [spread([run[name] for run in runs if name in run]) for name in COLUMNS]
        rows.append(f"| {arm} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def spread(values: list[float]) -> str:
    if not values:
        return "–"
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--label-weight", type=float, default=0.2)
    parser.add_argument("--data", type=Path, default=Path("runs/demo/data"), help="packed if new")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--table", action="store_true", help="print what --output holds, and stop")
    options = parser.parse_args()
    if not options.table:
        run_all(options)
    print(table(read(options.output)))


if __name__ == "__main__":
    main()
