"""Losses of a run on several ranks against those of one process with the joined batch.

One process writes the reference; ranks that torchrun starts compare with it. Prints JSON, and ends
with status 1 if they differ::

    python tools/gpu_ranks.py --world-size 8 --reference FILE --strategy auto
    torchrun --nproc_per_node 8 tools/gpu_ranks.py --world-size 8 --reference FILE --strategy ddp
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

STEPS, PER_RANK, LIMIT = 8, 4, 1e-3


def fit(args: argparse.Namespace, folder: Path) -> list[float]:
    """Train the smallest model in fp32; return the losses on rank 0."""
    from clipkit.training import MetricsCsv, ShardedStrategy
    from tests.helpers import tiny

    is_reference = args.strategy == "auto"
    strategies: dict[str, Any] = {"auto": "auto", "ddp": "ddp", "sharded": ShardedStrategy()}
    shards = args.reference.parent / f"shards {args.world_size}"
    if is_reference:
        tiny.shards(shards, counts=(40 * args.world_size, 30 * args.world_size))
    trainer = tiny.trainer(
        folder, accelerator="cpu" if args.device == "cpu" else "gpu",
        devices=1 if is_reference else args.world_size, strategy=strategies[args.strategy],
        max_steps=STEPS, logger=MetricsCsv(str(folder)), gradient_clip_val=1.0,
    )  # fmt: skip
    batch_size = PER_RANK * args.world_size if is_reference else PER_RANK
    trainer.fit(tiny.module(labels=True), datamodule=tiny.data(shards, batch_size))
    if not trainer.is_global_zero:
        return []
    with next(folder.rglob("metrics.csv")).open() as file:
        return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


def main() -> int:
    """Write the reference, or compare with it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--world-size", type=int, required=True)
    parser.add_argument("--reference", type=Path, required=True, metavar="FILE")
    parser.add_argument("--strategy", choices=("auto", "ddp", "sharded"), required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        losses = fit(args, Path(name))
    if args.strategy == "auto":
        args.reference.parent.mkdir(parents=True, exist_ok=True)
        args.reference.write_text(json.dumps(losses))
        return 0
    if not losses:
        return 0
    expected = json.loads(args.reference.read_text())
    pairs = list(zip(losses, expected, strict=True))
    error = max(abs(found - wanted) / abs(wanted) for found, wanted in pairs)
    row = {"strategy": args.strategy, "world_size": args.world_size, "steps": len(losses)}
    print(json.dumps({**row, "largest_relative_error": error, "limit": LIMIT}), flush=True)
    return int(not error <= LIMIT)


if __name__ == "__main__":
    sys.exit(main())
