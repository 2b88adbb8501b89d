"""Seconds for which training waits for a checkpoint, written at once and in the background.

A step changes every tensor of the state in place. The state has weights and two moments, as of an
encoder with AdamW. Prints JSON.

    python tools/bench_save.py --gigabytes 1 --saves 5
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from clipkit.training.checkpoints.places import write_file
from clipkit.training.checkpoints.writers import CheckpointWriter, WriteAtOnce, WriteInBackground

_TENSOR_BYTES = 16 << 20


def make_state(gigabytes: float, device: str) -> dict[str, Any]:
    """Weights and two moments, in tensors of 16 MiB."""
    count = max(1, round(gigabytes * 1e9 / 3 / _TENSOR_BYTES))
    shape = (_TENSOR_BYTES // 4,)
    weights, *moments = (
        {f"{i}": torch.rand(shape, device=device) for i in range(count)} for _ in range(3)
    )
    names = ("exp_avg", "exp_avg_sq")
    states = {i: {n: m[f"{i}"] for n, m in zip(names, moments, strict=True)} for i in range(count)}
    return {"state_dict": weights, "optimizer_states": [{"state": states}]}


def train_step(state: dict[str, Any]) -> None:
    """Change every tensor, as an optimizer does."""
    for values in (state["state_dict"], *state["optimizer_states"][0]["state"].values()):
        for tensor in values.values():
            tensor.mul_(1.0001)


def measure(
    writer: CheckpointWriter, state: dict[str, Any], path: Path, saves: int
) -> dict[str, Any]:
    """Save several times, with steps between until the write has ended."""
    stalls, writes, steps, num_bytes = [], [], [], 0
    for _ in range(saves):
        begin = time.perf_counter()
        writer.give(state, lambda content, _: write_file(content, str(path)))
        writer.start(lambda: None)
        stalls.append(time.perf_counter() - begin)
        while writer.is_busy:
            begin = time.perf_counter()
            train_step(state)
            steps.append(time.perf_counter() - begin)
        written = writer.wait()
        assert not written.problem, written.problem
        writes.append(written.seconds)
        num_bytes = written.num_bytes
    return {
        "first_stall_seconds": round(stalls[0], 3),
        "stall_seconds": round(statistics.median(stalls[1:] or stalls), 3),
        "write_seconds": round(statistics.median(writes), 3),
        "step_seconds_during_write": round(statistics.median(steps), 3) if steps else None,
        "bytes": num_bytes,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--saves", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, help="folder of the files; a temporary one if none")
    args = parser.parse_args()
    state = make_state(args.gigabytes, args.device)
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        train_step(state)
        times.append(time.perf_counter() - begin)
    result: dict[str, Any] = {
        "gigabytes": args.gigabytes,
        "device": args.device,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "step_seconds": round(statistics.median(times), 3),
    }
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "last.ckpt"
        result["at_once"] = measure(WriteAtOnce(), state, path, args.saves)
        result["background"] = measure(WriteInBackground(), state, path, args.saves)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
