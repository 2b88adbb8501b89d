"""Synchronisations and launches of the loss in a step, by objective, without a GPU.

The objectives run on made-up CUDA tensors, as rank 0 of a group whose exchanges move nothing.
Counted are the operations of torch that launch work on a GPU, each of which is one kernel or a few;
the passes over a tile are those that a GPU with Triton takes, or plain. Prints JSON, one object per
objective and number of ranks::

    python tools/loss_launches.py --ranks 1 8 --pairs 1024 --width 512
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class FusedPasses:
    """Stands for the Triton kernels: it counts what they launch, and computes nothing."""

    def __init__(self) -> None:
        self.launches = 0

    def add_logsumexp(self, *_: Any) -> None:
        """One pass over the tile, and one over the partial sums of each direction."""
        self.launches += 3

    def softmax_weights(self, logits: torch.Tensor, *args: Any) -> torch.Tensor:
        """One pass."""
        self.launches += 1
        return torch.empty_like(logits, dtype=args[-1])

    def sigmoid_weights(self, logits: torch.Tensor, *args: Any) -> tuple[torch.Tensor, ...]:
        """One pass, and a sum of its partial sums."""
        self.launches += 2
        empty = logits.new_empty(2)
        return empty[0], empty[1], torch.empty_like(logits, dtype=args[-1])


@contextmanager
def passes(fused: FusedPasses | None) -> Iterator[None]:
    """Replace the fused passes over a tile, which are used where they were measured faster."""
    from clipkit.losses.kernels import tile_body

    real = tile_body.load_kernels
    tile_body.load_kernels = lambda: fused
    try:
        yield
    finally:
        tile_body.load_kernels = real


def measured(name: str, ranks: int, pairs: int, width: int, fused: FusedPasses | None) -> Any:
    """Count synchronisations and launches of the second step of an objective."""
    from tests.helpers.fake_cuda import OBJECTIVES, fake_gpu, fake_ranks, make_step

    objective = OBJECTIVES[name]
    with fake_ranks(ranks), passes(fused), fake_gpu(strict=False) as counted:
        with torch.device("cuda"):
            loss = objective.make()
        for _ in range(2):
            counted.waits, counted.launches = [], 0
            if fused is not None:
                fused.launches = 0
            embeddings, batch = make_step(objective, ranks, pairs, width)
            before = counted.launches
            loss(embeddings, batch)
    own = 0 if fused is None else fused.launches
    return len(counted.waits), counted.launches - before + own


def main() -> None:
    """Print the counts of every objective."""
    from tests.helpers.fake_cuda import OBJECTIVES

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 8], help="numbers of ranks")
    parser.add_argument("--pairs", type=int, default=1024, help="pairs of a rank")
    parser.add_argument("--width", type=int, default=512, help="components of an embedding")
    parser.add_argument("--objectives", nargs="+", default=list(OBJECTIVES), choices=OBJECTIVES)
    options = parser.parse_args()
    size = options.pairs, options.width
    for name in options.objectives:
        for ranks in options.ranks:
            syncs, plain = measured(name, ranks, *size, None)
            _, fused = measured(name, ranks, *size, FusedPasses())
            row = {"objective": name, "ranks": ranks, "pairs": options.pairs, "syncs": syncs}
            print(json.dumps({**row, "launches": fused, "launches_without_triton": plain}))


if __name__ == "__main__":
    main()
