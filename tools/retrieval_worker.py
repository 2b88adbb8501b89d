#!/usr/bin/env python
"""Recall of random embeddings by one library: seconds, extra memory and recalls, as JSON.

Extra memory is what the measurement holds at its peak in addition to the embeddings: of resident
memory, or of the GPU's memory with ``--device cuda``. ``bench_evaluation.py retrieval`` runs this
in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

MIB = 2**20
KS = (1, 5, 10)
CHUNK = 1024


def embeddings(num_images: int, captions: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """Embeddings of images, of their captions, and the row of the image of each caption."""
    generator = torch.Generator().manual_seed(0)
    owner = torch.arange(num_images).repeat_interleave(captions)
    image, text = torch.empty(num_images, dim), torch.empty(len(owner), dim)
    for rows in image.split(CHUNK):
        rows.copy_(F.normalize(torch.randn(rows.shape, generator=generator), dim=1))
    for rows, of_rows in zip(text.split(CHUNK), owner.split(CHUNK), strict=True):
        noise = torch.randn(rows.shape, generator=generator) * 6 / dim**0.5
        rows.copy_(F.normalize(image[of_rows] + noise, dim=1))
    return image, text, owner


def by_clipkit(image: Tensor, text: Tensor, owner: Tensor, share: int) -> Mapping[str, float]:
    """Recall of clipkit; ``share`` computes one of so many parts, as one of so many ranks."""
    from clipkit.metrics import pair_ranks, retrieval_recall

    if share == 1:
        return retrieval_recall(image, text, owner, ks=KS)
    name = "clipkit.metrics.ranking"
    pairs = torch.stack([owner, torch.arange(len(owner), device=owner.device)], 1)
    with (
        patch(f"{name}.world_size", lambda: share),
        patch(f"{name}.sum_over_ranks", lambda counts: counts),
    ):
        pair_ranks(image, text, pairs, over_ranks=True)
    return {}


def by_clip_benchmark(
    image: Tensor, text: Tensor, owner: Tensor, share: int
) -> Mapping[str, float]:
    """Recall of CLIP_benchmark's own function, with a model that returns the embeddings."""
    from clip_benchmark.metrics import zeroshot_retrieval

    assert share == 1, "CLIP_benchmark needs all similarities"
    starts = torch.searchsorted(owner, torch.arange(len(image) + 1)).tolist()

    class Loader:
        def __iter__(self) -> Iterator[tuple[Tensor, list[list[int]]]]:
            for start in range(0, len(image), 64):
                rows = range(start, min(start + 64, len(image)))
                yield image[start : start + 64], [list(range(*starts[n : n + 2])) for n in rows]

        def __len__(self) -> int:
            return math.ceil(len(image) / 64)

    class Model:
        encode_image = staticmethod(lambda rows: rows)
        encode_text = staticmethod(lambda rows: text[rows])

    found = zeroshot_retrieval.evaluate(
        Model(), Loader(), torch.tensor, "cpu", amp=False, recall_k_list=list(KS)
    )
    names = {"text": "image_to_text", "image": "text_to_image"}
    return {
        f"{names[key.partition('_')[0]]}/recall_at_{key.partition('@')[2]}": value
        for key, value in found.items()
    }


def resident_mib(field: str) -> float:
    """Resident memory of this process: now ("VmRSS") or at the peak ("VmHWM")."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", choices=("clipkit", "clip_benchmark"), default="clipkit")
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--captions", type=int, default=5, help="captions of each image")
    parser.add_argument("--dim", type=int, default=512)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--share", type=int, default=1, help="measure 1 of so many parts")
    args = parser.parse_args()
    measure: Callable[..., Mapping[str, float]]
    measure = by_clipkit if args.library == "clipkit" else by_clip_benchmark
    small = embeddings(64, args.captions, args.dim)
    measure(*(rows.to(args.device) for rows in small), 1)  # imports and first calls
    data = [rows.to(args.device) for rows in embeddings(args.images, args.captions, args.dim)]
    is_gpu = args.device != "cpu"
    if is_gpu:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated() / MIB
    else:
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = resident_mib("VmRSS")
    start, start_cpu = time.perf_counter(), time.process_time()
    recalls = measure(*data, args.share)
    if is_gpu:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    cpu_seconds = time.process_time() - start_cpu
    peak = torch.cuda.max_memory_allocated() / MIB if is_gpu else resident_mib("VmHWM")
    result = {
        "images": args.images,
        "texts": args.images * args.captions,
        "share": args.share,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,  # of all threads: what other processes do changes it little
        "extra_mib": peak - before,
        "embeddings_mib": sum(rows.nbytes for rows in data) / MIB,
        "recalls": dict(recalls),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
