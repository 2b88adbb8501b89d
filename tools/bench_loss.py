"""Memory and time of the contrastive losses, forward and backward, against open_clip's.

Each measurement runs in a process of its own, which reports how far its peak of memory rose above
what it held before. One run prints (and with ``--output`` writes) one JSON object::

    PYTHONPATH=peer/open_clip/src python tools/bench_loss.py --sizes 4096 16384 --output loss.json

Without open_clip's main on the path the installed release is measured, which has no chunked loss.
A long table can be measured in several calls: what the file of ``--output`` holds already stays in
it, if it is of the same torch, device, width and threads.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHUNK_SIZE = 1024
# Of B*B floats, held at the peak.
MATRICES = {"open_clip_softmax": 5, "open_clip_sigmoid": 6, "open_clip_sigmoid_chunked": 3}
PAIRS = (
    ("clipkit_softmax", "open_clip_softmax"),
    ("clipkit_sigmoid", "open_clip_sigmoid"),
    ("clipkit_sigmoid", "open_clip_sigmoid_chunked"),
)
NAMES = tuple(dict.fromkeys(name for pair in PAIRS for name in pair))
REPEAT_BELOW = 10_000


def make_loss(name: str) -> Callable[..., Any]:
    """A function of image, text, scale and bias, by the name of its implementation."""
    if name.startswith("clipkit"):
        from clipkit.losses import ContrastiveLoss, SigmoidLoss
        from clipkit.types import Embeddings

        if name == "clipkit_softmax":
            return lambda image, text, scale, _: ContrastiveLoss()(Embeddings(image, text, scale))
        return lambda *inputs: SigmoidLoss()(Embeddings(*inputs))
    from open_clip.loss import ClipLoss, SigLipLoss

    if name == "open_clip_softmax":
        softmax = ClipLoss()
        return lambda image, text, scale, _: softmax(image, text, scale)
    if name == "open_clip_sigmoid_chunked":
        return SigLipLoss(chunk_size=CHUNK_SIZE)
    return SigLipLoss()


def make_inputs(name: str, size: int, width: int, device: str) -> list[Any]:
    """Correlated unit-norm embeddings, and the scale and bias in the middle of a training run."""
    import torch
    from torch.nn import functional as F

    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(size, width, generator=generator)
    towers = [
        F.normalize(0.3 * shared + torch.randn(size, width, generator=generator), dim=1)
        for _ in range(2)
    ]
    start = (50.0, 0.0) if "softmax" in name else (50.0, -10.0)
    numbers = [torch.tensor(value) for value in start]
    return [tensor.to(device).requires_grad_() for tensor in (*towers, *numbers)]


def memory_now(device: str) -> int:
    """Bytes that this process holds."""
    if device != "cpu":
        import torch

        return torch.cuda.memory_allocated()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def reset_peak(device: str) -> None:
    """Forget the peak so far."""
    if device != "cpu":
        import torch

        torch.cuda.reset_peak_memory_stats()
    else:
        Path("/proc/self/clear_refs").write_text("5")


def memory_peak(device: str) -> int:
    """Most bytes that this process held since :func:`reset_peak`."""
    if device != "cpu":
        import torch

        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status").read_text()
    return next(
        1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")
    )


def measure(name: str, size: int, width: int, threads: int, device: str) -> dict[str, Any]:
    """One measurement, in this process."""
    import torch

    torch.set_num_threads(threads)
    loss = make_loss(name)

    def step(inputs: list[Any]) -> float:
        for tensor in inputs:
            tensor.grad = None
        value = loss(*inputs)
        value.backward()
        return float(value.detach())

    step(make_inputs(name, 256, width, device))  # load libraries
    inputs = make_inputs(name, size, width, device)
    base = memory_now(device)
    reset_peak(device)
    walls, cpus, value = [], [], 0.0
    for _ in range(3 if size < REPEAT_BELOW else 1):
        wall, cpu = time.perf_counter(), time.process_time()
        value = step(inputs)
        if device != "cpu":
            torch.cuda.synchronize()
        walls.append(time.perf_counter() - wall)
        cpus.append(time.process_time() - cpu)
    return {
        "implementation": name,
        "batch": size,
        "extra_peak_mib": round((memory_peak(device) - base) / 2**20, 1),
        "wall_seconds": round(min(walls), 4),
        "cpu_seconds": round(min(cpus), 4),
        "loss": value,
    }


def run_child(name: str, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """One measurement in a new process, unless it would not fit."""
    expected = MATRICES.get(name, 0) * size * size * 4
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if options.device == "cpu" and expected > 0.9 * free:
        skipped = f"needs about {expected / 2**30:.0f} GiB, {free / 2**30:.0f} are free"
        return {"implementation": name, "batch": size, "skipped": skipped}
    command = [sys.executable, __file__, "--child", name, "--sizes", str(size)]
    command += ["--width", str(options.width), "--threads", str(options.threads)]
    command += ["--device", options.device]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return {"implementation": name, "batch": size, "skipped": reason}
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def exponent(results: list[dict[str, Any]], name: str, key: str) -> float | None:
    """Slope of log(key) over log(batch)."""
    points = [
        (math.log(r["batch"]), math.log(r[key]))
        for r in results
        if r["implementation"] == name and r.get(key, 0) > 0
    ]
    if len(points) < 2:
        return None
    mean_x, mean_y = (sum(p[k] for p in points) / len(points) for k in (0, 1))
    above = sum((x - mean_x) * (y - mean_y) for x, y in points)
    return round(above / sum((x - mean_x) ** 2 for x, _ in points), 2)


def compare(results: list[dict[str, Any]], sizes: list[int]) -> list[dict[str, Any]]:
    """Ours against open_clip: how many times less memory, which share of the time."""
    by_key = {(r["implementation"], r["batch"]): r for r in results if "skipped" not in r}
    rows = []
    for ours, theirs in PAIRS:
        for size in sizes:
            one, other = by_key.get((ours, size)), by_key.get((theirs, size))
            if one and other:
                rows.append(
                    {
                        "loss": ours.removeprefix("clipkit_"),
                        "against": theirs,
                        "batch": size,
                        "times_less_memory": round(
                            other["extra_peak_mib"] / one["extra_peak_mib"], 1
                        ),
                        "share_of_wall_time": round(one["wall_seconds"] / other["wall_seconds"], 2),
                        "share_of_cpu_time": round(one["cpu_seconds"] / other["cpu_seconds"], 2),
                        "difference_of_loss": abs(one["loss"] - other["loss"]),
                    }
                )
    return rows


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", type=int, nargs="+", default=[4096, 16384, 32768])
    parser.add_argument("--implementations", nargs="+", choices=NAMES, default=NAMES)
    parser.add_argument("--width", type=int, default=512, help="components of an embedding")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


def earlier_results(path: Path | None, setting: dict[str, Any]) -> list[dict[str, Any]]:
    """What the output file holds already, if it was measured in the same setting."""
    if path is None or not path.exists():
        return []
    report = json.loads(path.read_text())
    if any(report[name] != value for name, value in setting.items()):
        raise SystemExit(f"--output: {path} was measured in another setting; name a new file")
    results: list[dict[str, Any]] = report["results"]
    return results


def main() -> None:
    options = parse_options()
    if options.child:
        setting = (options.width, options.threads, options.device)
        print(json.dumps(measure(options.child, options.sizes[0], *setting)))
        return
    import torch

    setting = {
        "machine": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "device": options.device,
        "width": options.width,
        "threads": options.threads,
    }
    measured = {
        (r["batch"], r["implementation"]): r for r in earlier_results(options.output, setting)
    }
    for size in options.sizes:
        for name in options.implementations:
            measured[size, name] = run_child(name, size, options)
            print(json.dumps(measured[size, name]), file=sys.stderr, flush=True)
    results = [measured[key] for key in sorted(measured)]
    report = {
        **setting,
        "results": results,
        "comparison": compare(results, sorted({size for size, _ in measured})),
        "growth": {
            name: {
                "memory": exponent(results, name, "extra_peak_mib"),
                "time": exponent(results, name, "cpu_seconds"),
            }
            for name in NAMES
        },
    }
    text = json.dumps(report, indent=2)
    if options.output:
        options.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
