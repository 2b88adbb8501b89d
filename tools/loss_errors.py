"""Errors of the contrastive losses by precision of their products, against fp64.

Operands are rounded as on a GPU, and multiplied with sums in fp32 on the CPU. Prints Markdown::

    python tools/loss_errors.py --pairs 4096 --width 512 --scale 100
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PRECISIONS = ("fp32", "tf32", "bf16")
BIAS = -20.0
NOISES = {"partly solved": 2.0, "nearly solved": 1.6}


def towers(pairs: int, width: int, noise: float) -> list[Tensor]:
    """Unit rows in fp32 with values of fp64; less noise makes the pairs more similar."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(pairs, width, generator=generator)
    noises = (torch.randn(pairs, width, generator=generator) for _ in range(2))
    return [F.normalize(shared + noise * own, dim=1) for own in noises]


def differentiated(
    kind: str, precision: str, rows: list[Tensor], scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, and gradients of both towers and of the scale."""
    from clipkit.losses import ContrastiveLoss, SigmoidLoss
    from clipkit.types import Embeddings

    image, text = (tower.clone().requires_grad_() for tower in rows)
    of_scale = torch.tensor(scale, dtype=image.dtype, requires_grad=True)
    bias = None if kind == "softmax" else torch.tensor(BIAS, dtype=image.dtype)
    loss = ContrastiveLoss if kind == "softmax" else SigmoidLoss
    value = loss(precision=precision)(Embeddings(image, text, of_scale, bias))
    value.backward()
    assert image.grad is not None
    assert text.grad is not None
    assert of_scale.grad is not None
    return value.detach(), torch.cat([image.grad, text.grad]), of_scale.grad


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=4096)
    parser.add_argument("--width", type=int, default=512, help="components of an embedding")
    parser.add_argument("--scale", type=float, default=100.0)
    options = parser.parse_args()
    print("| loss | batch | value in fp64 | precision | value | gradient | gradient of the scale |")
    print("|---|---|---|---|---|---|---|")
    for kind in ("softmax", "sigmoid"):
        for batch, noise in NOISES.items():
            rows = towers(options.pairs, options.width, noise)
            exact = differentiated(kind, "fp32", [row.double() for row in rows], options.scale)
            for precision in PRECISIONS:
                got = differentiated(kind, precision, rows, options.scale)
                errors = [
                    float((a.double() - b).norm() / b.norm())
                    for a, b in zip(got, exact, strict=True)
                ]
                cells = [f"{error:.1e}" for error in errors]
                print(f"| {kind} | {batch} | {float(exact[0]):.4f} | {precision} "
                      f"| {' | '.join(cells)} |")  # fmt: skip


if __name__ == "__main__":
    main()
