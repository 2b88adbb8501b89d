"""Bytes that ranks read to choose and load ``--ckpt_path last``, one file or in parts. Prints JSON.

Reads are counted by the kernel (``rchar`` in /proc/self/io); pages of a mapped file are not among
them: the ranks of a machine share them, and each is read once.

    python tools/bench_resume.py --ranks 8 --gigabytes 0.5
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from clipkit.models.files.sharded import read_sharded, split_shards, write_sharded
from clipkit.training.checkpoints.io import AtomicCheckpointIO
from clipkit.training.checkpoints.newest import newest_complete

_ROWS = 4096


def run_rank(rank: int, ranks: int, folder: Path, numbers: int, answers: Any) -> None:
    """Write and read both kinds of checkpoints on one of the ranks."""
    store = dist.FileStore(str(folder / "ranks"), ranks)
    dist.init_process_group("gloo", rank=rank, world_size=ranks, store=store)
    weights = torch.rand(_ROWS, numbers // _ROWS)
    version = {"global_step": 1, "pytorch-lightning_version": "2"}
    if rank == 0:
        content = {"state_dict": {"w": weights}, **version}
        AtomicCheckpointIO().save_checkpoint(content, folder / "file" / "last.ckpt")
    sharded = distribute_tensor(weights, init_device_mesh("cpu", (ranks,)), [Shard(0)])
    content = {"state_dict": {"w": sharded}, **version}
    write_sharded(split_shards(content), folder / "parts" / "last.ckpt")
    results = {}
    for kind in ("file", "parts"):
        dist.barrier()
        before, begin = _bytes_read(), time.perf_counter()
        path = newest_complete(str(folder / kind))
        assert path is not None
        if kind == "file":
            AtomicCheckpointIO("cuda").load_checkpoint(path)
        else:
            read_sharded(path, lambda _: sharded)
        results[kind] = (_bytes_read() - before, time.perf_counter() - begin)
    answers.put(results)
    dist.barrier()
    dist.destroy_process_group()


def _bytes_read() -> int:
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["rchar"])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ranks", type=int, default=8)
    parser.add_argument("--gigabytes", type=float, default=0.5)
    args = parser.parse_args()
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        numbers = round(args.gigabytes * 1e9 / 4)
        processes = [
            context.Process(target=run_rank, args=(rank, args.ranks, folder, numbers, answers))
            for rank in range(args.ranks)
        ]
        for process in processes:
            process.start()
        results = [answers.get(timeout=300) for _ in processes]
        for process in processes:
            process.join()
        size = (folder / "file" / "last.ckpt").stat().st_size
    print(json.dumps({
        "ranks": args.ranks,
        "checkpoint_bytes": size,
        **{
            kind: {
                "bytes_read": sum(result[kind][0] for result in results),
                "most_of_a_rank": max(result[kind][0] for result in results),
                "seconds": round(max(result[kind][1] for result in results), 2),
            }
            for kind in ("file", "parts")
        },
    }, indent=2))  # fmt: skip


if __name__ == "__main__":
    main()
