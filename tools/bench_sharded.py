"""Measure the peak memory of two ranks that build, shard and save a model of 1 GB.

    python tools/bench_sharded.py

Building: weights on every rank, or on the first rank alone (``structure_only``). Saving: all
weights gathered on every rank, or tensor by tensor on the first one. Linux only; prints MB above
the process that has imported everything.
"""

from __future__ import annotations

import gc
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from clipkit.models import DualEncoder, from_open_clip, structure_only
from clipkit.training.strategies.first_rank import shard_from_first_rank
from clipkit.training.strategies.gathering import gather_to_first
from clipkit.training.strategies.sharding import ShardingOptions

RANKS = 2
MODEL: dict[str, Any] = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 28, "patch_size": 14, "width": 1024, "layers": 20},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}


def memory(field: str) -> float:
    """Return ``VmRSS`` or its peak ``VmHWM`` of this process in MB."""
    lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1e3


def peak_of(action: Callable[[], Any]) -> tuple[Any, str]:
    """Run a function; return its result, its peak above the memory before, and its seconds."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", "utf-8")  # resets the peak
    before, start = memory("VmRSS"), time.perf_counter()
    result = action()
    seconds = time.perf_counter() - start
    return result, f"{memory('VmHWM') - before:.0f} MB, {seconds:.1f} s"


def build(rank: int, on_first: bool) -> DualEncoder:
    torch.manual_seed(0)
    with structure_only() if on_first and rank > 0 else nullcontext():
        encoder = from_open_clip(MODEL)
    mesh = init_device_mesh("cpu", (RANKS,))
    shard_from_first_rank(encoder, mesh, ShardingOptions(), torch.device("cpu"))
    return encoder


def gather_everywhere(encoder: DualEncoder) -> dict[str, torch.Tensor]:
    state = encoder.state_dict()
    return {n: t.full_tensor() if isinstance(t, DTensor) else t for n, t in state.items()}


def measure(rank: int, on_first: bool, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(f"{folder}/{on_first}", RANKS)
    dist.init_process_group("gloo", rank=rank, world_size=RANKS, store=store)
    from_open_clip({**MODEL, "vision_cfg": {**MODEL["vision_cfg"], "layers": 1, "width": 64}})
    encoder, figures = peak_of(lambda: build(rank, on_first))
    where = "the first rank" if on_first else "every rank"
    print(f"rank {rank}: weights built on {where}: {figures}", flush=True)
    if on_first:
        kept, figures = peak_of(lambda: gather_everywhere(encoder))
        print(f"rank {rank}: gathered on every rank: {figures}", flush=True)
        del kept
        dist.barrier()
        _, figures = peak_of(lambda: gather_to_first(encoder.state_dict()))
        print(f"rank {rank}: gathered on the first rank: {figures}", flush=True)
    dist.barrier()
    dist.destroy_process_group()


def main() -> None:
    from tempfile import TemporaryDirectory

    with torch.device("meta"):
        numel = sum(p.numel() for p in from_open_clip(MODEL).parameters())
    print(f"{numel / 1e6:.0f} M parameters, {4 * numel / 1e6:.0f} MB")
    with TemporaryDirectory() as folder:
        for on_first in (False, True):
            mp.spawn(measure, (on_first, folder), RANKS)  # type: ignore[no-untyped-call]


if __name__ == "__main__":
    main()
