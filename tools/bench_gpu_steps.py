"""Training steps on one GPU: time, memory and model FLOPs utilisation, clipkit or open_clip.

One process measures one trainer and model; `tools/gpu_check.sh` runs them in turn. Batches are
made once and stay on the GPU: nothing is loaded, nothing is copied. Both take bf16 autocast, fused
AdamW, and gradients clipped at 1::

    python tools/bench_gpu_steps.py --runner clipkit --model ViT-B-32 --batch-size 1024
    PYTHONPATH=peer/open_clip/src python tools/bench_gpu_steps.py --runner open_clip ...

clipkit reads captions to the longest of the batch, open_clip (with its default tokenizer) to 77
tokens. So clipkit is measured with captions of 77 tokens, which is equal work, and of 32.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools.device_timing import Mark, card_name, forget_peak, peak_bytes, synchronize

# dense bf16, by the vendor's data sheet
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "B200": 2250e12}
END = 49_407
TOY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "head_width": 16, "layers": 2},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
Step = Callable[[], Tensor]


def captions(batch_size: int, length: int, device: torch.device) -> Tensor:
    """Random token ids that end at ``length``."""
    tokens = torch.randint(1, END, (batch_size, length), device=device)
    tokens[:, -1] = END
    return tokens


def make_optimizer(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=1e-5, betas=(0.9, 0.98), eps=1e-6, fused=True)


def clipkit_step(
    model: str, batch_size: int, length: int, is_compiled: bool, device: torch.device
) -> Step:
    """A step of a plain loop over clipkit's parts."""
    from clipkit.losses import CombinedLoss, ContrastiveLoss
    from clipkit.models import from_open_clip
    from clipkit.models.towers.blocks import tower_blocks
    from clipkit.training.callbacks.towers.block_wrappers import compile_block
    from clipkit.training.strategies.sharding import clip_gradients
    from clipkit.types import Batch

    encoder = from_open_clip(TOY if model == "toy" else model).to(device).train()
    if is_compiled:
        for tower in (encoder.image_tower, encoder.text_tower):
            for block in tower_blocks(tower):
                compile_block(block, "inductor", None)
    loss = CombinedLoss(ContrastiveLoss())
    parameters = list(encoder.parameters())
    optimizer = make_optimizer(parameters)
    size = encoder.image_tower.image_size
    batch = Batch(
        torch.randint(0, 256, (batch_size, 3, size, size), dtype=torch.uint8, device=device),
        captions(batch_size, length, device),
        torch.full((batch_size,), -100, device=device),
        ("",) * batch_size,
    )

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            value: Tensor = loss(encoder(batch), batch)["loss"]
        value.backward()
        clip_gradients(parameters, 1.0)
        optimizer.step()
        return value

    return step


def open_clip_step(
    model: str, batch_size: int, length: int, is_compiled: bool, device: torch.device
) -> Step:
    """A step as in open_clip's `train_one_epoch`, with its task if it has one, and its switches."""
    import open_clip

    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    if model == "toy":
        register_toy(open_clip)
    clip = open_clip.create_model(model, precision="amp_bf16", device=device, output_dict=True)
    clip.train()
    losses_of = open_clip_losses(clip, is_compiled, device)
    parameters = list(clip.parameters())
    optimizer = make_optimizer(parameters)
    size = clip.visual.image_size
    size = size if isinstance(size, int) else size[0]
    batch = {
        "image": torch.randn(batch_size, 3, size, size, device=device),
        "text": captions(batch_size, length, device),
    }

    def step() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            value = losses_of(batch)
        value.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        with torch.no_grad():
            clip.logit_scale.clamp_(0, 4.6052)
        return value

    return step


def register_toy(open_clip: Any) -> None:
    """Make the toy known to open_clip, which reads configurations from files."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "toy.json").write_text(json.dumps(TOY))
        open_clip.add_model_config(folder)


def open_clip_losses(
    clip: nn.Module, is_compiled: bool, device: torch.device
) -> Callable[[dict[str, Tensor]], Tensor]:
    """Model and loss as the trainer of a checkout (a task) or of release 3 combines them."""
    try:
        from open_clip.task import CLIPTask
    except ImportError:
        from open_clip.loss import ClipLoss

        model, loss = torch.compile(clip) if is_compiled else clip, ClipLoss()
        return lambda batch: loss(**model(batch["image"], batch["text"]))
    task = CLIPTask(clip, device=device)
    if is_compiled:
        task.compile(target="task")
    return lambda batch: task(batch)[0]["loss"]


RUNNERS = {"clipkit": clipkit_step, "open_clip": open_clip_step}


def count_flops(make: Callable[..., Step], model: str, length: int, device: torch.device) -> float:
    """Floating-point operations of forward and backward, of one pair; without the loss's square."""
    few = 8
    step = make(model, few, length, False, device)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / few


def measure(step: Step, batch_size: int, num_steps: int, device: torch.device) -> dict[str, Any]:
    """Median milliseconds of a step, and the peak of memory."""
    start = time.perf_counter()
    for _ in range(4):
        step()
    synchronize(device)
    warm_up = time.perf_counter() - start
    forget_peak(device)
    marks = [Mark(device)]
    for _ in range(num_steps):
        value = step()
        marks.append(Mark(device))
    synchronize(device)
    times = [one.milliseconds_until(other) for one, other in pairwise(marks)]
    median = statistics.median(times)
    return {
        "ms_per_step": round(median, 2),
        "range_ms": [round(min(times), 2), round(max(times), 2)],
        "samples_per_second": round(1000 * batch_size / median, 1),
        "peak_gib": round(peak_bytes(device) / 2**30, 2),
        "warm_up_seconds": round(warm_up, 1),
        "loss": round(float(value.detach()), 4),
    }


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runner", choices=sorted(RUNNERS), required=True)
    parser.add_argument("--model", default="ViT-B-32", help="of open_clip, or toy")
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--lengths", type=int, nargs="+", default=[77])
    parser.add_argument("--compiled", type=int, nargs="+", default=[0, 1], help="0, 1 or both")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    args = parser.parse_args()
    device = torch.device(args.device)
    card = card_name(device)
    peak = next((flops for name, flops in PEAK_FLOPS.items() if name in card), None)
    make = RUNNERS[args.runner]
    for length in args.lengths:
        flops = count_flops(make, args.model, length, device)
        for compiled in args.compiled:
            torch.manual_seed(0)
            torch._dynamo.reset()
            forget_peak(device)
            try:
                step = make(args.model, args.batch_size, length, bool(compiled), device)
                result = measure(step, args.batch_size, args.steps, device)
            except torch.cuda.OutOfMemoryError:
                result = {"skipped": "out of memory"}
            step = None
            rate = result.get("samples_per_second")
            utilisation = rate * flops / peak if rate and peak else None
            row = {
                "runner": args.runner, "model": args.model, "batch_size": args.batch_size,
                "tokens": length, "compiled": bool(compiled), "card": card,
                "gflops_per_pair": round(flops / 1e9, 2),
                "mfu": round(utilisation, 3) if utilisation else None, **result,
            }  # fmt: skip
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
