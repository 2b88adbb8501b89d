"""The contrastive losses on one GPU: time and memory of forward and backward, by precision.

Against open_clip's losses in fp32 with TF32 products and under bf16 autocast, as its trainer runs
them, and siglip-kernel where it is installed. Prints one line of JSON per measurement::

    PYTHONPATH=peer/open_clip/src python tools/bench_gpu_loss.py --sizes 4096 16384 65536
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.device_timing import Mark, card_name, forget_peak, peak_bytes, synchronize

Loss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def clipkit_loss(kind: str, precision: Any, is_fused: bool) -> Loss:
    """Clipkit's loss with its passes over every tile fused, or plain."""
    from clipkit.losses import ContrastiveLoss, SigmoidLoss
    from clipkit.losses.kernels import tile_body
    from clipkit.types import Embeddings

    def chosen(*_: Any) -> ModuleType | None:
        return tile_body.load_kernels() if is_fused and torch.cuda.is_available() else None

    original = tile_body._kernels
    softmax, sigmoid = ContrastiveLoss(precision=precision), SigmoidLoss(precision=precision)

    def value(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        tile_body._kernels = chosen
        try:
            if kind == "softmax":
                return softmax(Embeddings(image, text, scale))
            return sigmoid(Embeddings(image, text, scale, bias))
        finally:
            tile_body._kernels = original

    return value


def open_clip_loss(kind: str, is_half: bool) -> Loss:
    """open_clip's loss, in its trainer's autocast or in fp32 with TF32 products."""
    from open_clip.loss import ClipLoss, SigLipLoss

    softmax, sigmoid = ClipLoss(), SigLipLoss()

    def value(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        with torch.autocast(image.device.type, torch.bfloat16, enabled=is_half):
            if kind == "softmax":
                return softmax(image, text, scale)
            return sigmoid(image, text, scale, bias)

    return value


def siglip_kernel_loss(is_half: bool) -> Loss:
    """siglip-kernel's choice of kernel for the card; its gradients are in the inputs' precision."""
    from siglip_kernel import fused_siglip_loss

    def value(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        if is_half:
            image, text = image.bfloat16(), text.bfloat16()
        loss: Tensor = fused_siglip_loss(image, text, scale.log(), bias)
        return loss

    return value


def implementations(kind: str) -> dict[str, Callable[[], Loss]]:
    """How each is made, by name; those of others may be missing."""
    losses: dict[str, Callable[[], Loss]] = {
        f"clipkit {precision}{'' if is_fused else ' plain'}": partial(
            clipkit_loss, kind, precision, is_fused
        )
        for precision in ("fp32", "tf32", "bf16")
        for is_fused in (True, False)
    }
    losses["open_clip tf32"] = partial(open_clip_loss, kind, False)
    losses["open_clip bf16"] = partial(open_clip_loss, kind, True)
    if kind == "sigmoid":
        losses["siglip-kernel fp32"] = partial(siglip_kernel_loss, False)
        losses["siglip-kernel bf16"] = partial(siglip_kernel_loss, True)
    return losses


def make_inputs(size: int, width: int, device: torch.device) -> list[Tensor]:
    """Correlated unit-norm embeddings in the middle of a training run."""
    generator = torch.Generator(device).manual_seed(0)

    def noise() -> Tensor:
        return torch.randn(size, width, generator=generator, device=device)

    shared = noise()
    towers = [F.normalize(0.6 * shared + noise(), dim=1) for _ in range(2)]
    numbers = [torch.tensor(value, device=device) for value in (50.0, -10.0)]
    return [tensor.requires_grad_() for tensor in (*towers, *numbers)]


def measure(
    loss: Loss, size: int, width: int, repeats: int, device: torch.device
) -> dict[str, Any]:
    """Median of three times of some steps in a row, extra memory, loss and gradient's norm."""
    inputs = make_inputs(size, width, device)

    def step() -> Tensor:
        for tensor in inputs:
            tensor.grad = None
        value = loss(*inputs)
        value.backward()
        return value.detach()

    step()
    synchronize(device)
    for tensor in inputs:
        tensor.grad = None
    before = forget_peak(device)
    times = []
    for _ in range(3):
        start = Mark(device)
        for _ in range(repeats):
            value = step()
        end = Mark(device)
        synchronize(device)
        times.append(start.milliseconds_until(end) / repeats)
    assert inputs[0].grad is not None
    return {
        "ms": round(statistics.median(times), 3),
        "extra_mib": round((peak_bytes(device) - before) / 2**20, 1),
        "loss": float(value),
        "gradient_norm": float(inputs[0].grad.double().norm()),
    }


def measure_or_skip(
    make: Callable[[], Loss], size: int, width: int, device: torch.device, is_own: bool
) -> dict[str, Any]:
    """Measure; say why not if a package is missing, memory ends, or another's kernel fails."""
    repeats = max(1, min(100 if device.type == "cuda" else 1, (65_536 // size) ** 2))
    try:
        return measure(make(), size, width, repeats, device)
    except ImportError as error:
        return {"skipped": str(error)}
    except torch.cuda.OutOfMemoryError:
        return {"skipped": "out of memory"}
    except Exception as error:
        if is_own:
            raise
        return {"skipped": f"{type(error).__name__}: {error}"[:300]}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sizes", type=int, nargs="+", default=[4096, 16_384, 32_768, 65_536, 131_072]
    )
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--kinds", nargs="+", default=["softmax", "sigmoid"])
    parser.add_argument("--names", nargs="+", help="only these implementations")
    parser.add_argument(
        "--tile-mib", type=int, help="size of a tile of logits; clipkit's own if left out"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.tile_mib:
        from clipkit.losses.kernels import tiled

        tiled.GPU_TILE_AREA = args.tile_mib * 2**20 // 4
    torch.set_float32_matmul_precision("high")  # as open_clip's trainer does
    for kind in args.kinds:
        for size in args.sizes:
            for name, make in implementations(kind).items():
                if args.names and name not in args.names:
                    continue
                row = {"kind": kind, "name": name, "pairs": size, "width": args.width}
                row |= {"card": card_name(device)}
                row |= measure_or_skip(make, size, args.width, device, name.startswith("clipkit"))
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
