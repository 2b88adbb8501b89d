"""Time and memory of the filters of embedded collections, on simulated rows.

python tools/bench_filter.py WORK --rows 100000 1000000 --output filter.json

Embeddings of 512 components around random directions, captions of words with Zipf's frequencies,
5 % planted copies of images. Every filter runs in a process of its own, on all rows.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import platform
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.collection import (
    Collection,
    CollectionInfo,
    CollectionShard,
    ShardRows,
    write_info,
    write_shard_files,
)
from clipkit.curation.candidates import Candidates
from clipkit.curation.filters.named import make_filter

SHARD_ROWS = 10_000
WIDTH = 512
NUM_WORDS = 50_000
NUM_ENTRIES = 100_000
WORDS_PER_CAPTION = 10
COPIED_SHARE = 0.05
MOST_NOISE = 0.3  # the cosine similarity of copies is from 0.958 to 1
ROWS_PER_DIRECTION = 200
FILTERS: dict[str, Any] = {
    "min_score": 0.2,
    "best_scores": 0.3,
    "min_side": 200,
    "max_aspect": 3.0,
    "caption_words": [3, 40],
    "scripts": ["Latin"],
    "file_duplicates": None,
    "image_duplicates": None,
    "embedding_duplicates": 0.95,
    "not_in": "KNOWN",
    "not_near": "KNOWN",
    "max_per_class": 500,
    "balance_metadata": ["ENTRIES", 1000],
    "predicate": "bench_rules:keep",  # in this folder, which is on the path of Python
}


def unit(rows: np.ndarray) -> np.ndarray:
    """Return rows of length 1."""
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True))


def write_rows(folder: Path, num_rows: int, seed: int) -> np.ndarray:
    """Write a collection, and return the row that each row is a planted copy of, or -1."""
    rng = np.random.default_rng(seed)
    directions = rng.standard_normal((max(1, num_rows // ROWS_PER_DIRECTION), WIDTH), np.float32)
    shares = 1 / np.arange(1, NUM_WORDS + 1)
    shares /= shares.sum()
    words = np.array([f"word{n}" for n in range(NUM_WORDS)])
    originals = np.full(num_rows, -1)
    shards = []
    for start in range(0, num_rows, SHARD_ROWS):
        count = min(SHARD_ROWS, num_rows - start)
        own = directions[rng.integers(len(directions), size=count)]
        images = unit(own + rng.standard_normal(own.shape, np.float32))
        signatures = rng.integers(0, 2**64, (count, 5), np.uint64)
        hashes = rng.integers(0, 2**64, (count, 4), np.uint64)
        # A copy comes after its original, in the shard: other copies are as far as other rows.
        copies = rng.choice(np.arange(count // 2, count), round(COPIED_SHARE * count), False)
        sources = rng.integers(0, count // 2, len(copies))
        noise = rng.standard_normal((len(copies), WIDTH), np.float32)
        length = rng.uniform(0, MOST_NOISE, (len(copies), 1)).astype(np.float32)
        images[copies] = unit(images[sources] + length / math.sqrt(WIDTH) * noise)
        signatures[copies] = signatures[sources]
        signatures[copies, 0] ^= np.uint64(0b1011)
        hashes[copies[::2]] = hashes[sources[::2]]
        originals[start + copies] = start + sources
        texts = unit(0.35 * images + unit(rng.standard_normal(images.shape, np.float32)))
        drawn = words[rng.choice(NUM_WORDS, (count, WORDS_PER_CAPTION), p=shares)]
        sides = rng.integers(100, 1000, (2, count))
        name = f"{start // SHARD_ROWS:06d}"
        columns = {
            "key": [f"{start + row:09d}" for row in range(count)],
            "captions": [[" ".join(each)] for each in drawn],
            "label": rng.integers(0, 1000, count).tolist(),
            "image_type": ["jpg"] * count,
            "image_offset_bytes": [512] * count,
            "image_size_bytes": [1] * count,
            "width_pixels": sides[0].tolist(),
            "height_pixels": sides[1].tolist(),
            "image_sha256": [each.tobytes() for each in hashes],
            "image_signature": [each.astype("<u8").tobytes() for each in signatures],
            "error": [None] * count,
        }
        rows = ShardRows(images.astype(np.float16), texts.astype(np.float16), columns)
        write_shard_files(rows, folder, name)
        shards.append(CollectionShard(name, f"{name}.tar", count, 0))
    info = CollectionInfo(
        "simulated", None, "", "simulated", "train", WIDTH, "fp32", True, (), (), tuple(shards)
    )
    write_info(info, folder)
    return originals


class PeakMemory:
    """Largest memory of this process that is not of files, sampled every 10 ms."""

    def __init__(self) -> None:
        self.start = self.peak = self._now()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ends.wait(0.01):
            self.peak = max(self.peak, self._now())

    def stop(self) -> float:
        """Return the growth in MB."""
        self._ends.set()
        self._thread.join()
        return (max(self.peak, self._now()) - self.start) / 1e3

    @staticmethod
    def _now() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def measure(name: str, given: Any, folder: Path, originals: np.ndarray, queue: Any) -> None:
    """Apply a filter to all rows."""
    candidates = Candidates(Collection(folder))
    kind = make_filter(name, given)
    memory = PeakMemory()
    begin, begin_cpu = time.perf_counter(), time.process_time()
    decision = kind.decide(candidates)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - begin_cpu
    result = {
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_seconds, 2),
        "memory_mb": round(memory.stop(), 1),
        "removed_share": round(float(decision.removed.mean()), 4),
    }
    if name in ("image_duplicates", "embedding_duplicates"):
        # Of a pair, either one may be kept.
        copies = np.flatnonzero(originals >= 0)
        found = decision.removed[copies] | decision.removed[originals[copies]]
        result["planted_found_share"] = round(float(found.mean()), 5)
    queue.put(result)


def bench(work: Path, num_rows: int, chosen: list[str]) -> dict[str, Any]:
    folder = work / f"rows-{num_rows}"
    begin = time.perf_counter()
    originals = write_rows(folder, num_rows, seed=0)
    results: dict[str, Any] = {"write_seconds": round(time.perf_counter() - begin, 1)}
    context = multiprocessing.get_context("spawn")
    for name in chosen:
        given = FILTERS[name]
        given = str(work / "known") if given == "KNOWN" else given
        given = [str(work / "entries.txt"), *given[1:]] if name == "balance_metadata" else given
        queue = context.Queue()
        arguments = (name, given, folder, originals, queue)
        process = context.Process(target=measure, args=arguments)
        process.start()
        results[name] = queue.get()
        process.join()
        print(num_rows, name, results[name], flush=True)
    shutil.rmtree(folder)
    return results


def growth(results: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Return the exponents of the CPU time between the smallest and the largest number of rows."""
    low, high = min(results), max(results)
    ratio = math.log(high / low)
    return {
        name: round(math.log(max(each["cpu_seconds"], 1e-2) / max(first, 1e-2)) / ratio, 2)
        for name, each in results[high].items()
        if isinstance(each, dict) and (first := results[low][name]["cpu_seconds"]) > 0
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--filters", nargs="+", default=list(FILTERS), choices=list(FILTERS))
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    write_rows(args.work / "known", 5_000, seed=1)
    rng = np.random.default_rng(2)
    pairs = rng.integers(0, NUM_WORDS, (NUM_ENTRIES, 2))
    entries = [f"word{a}" if b % 2 else f"word{a} word{b}" for a, b in pairs.tolist()]
    (args.work / "entries.txt").write_text("\n".join(entries))
    results = {num_rows: bench(args.work, num_rows, args.filters) for num_rows in args.rows}
    content = {"machine": platform.processor() or platform.machine(), "rows": results}
    if len(results) > 1:
        content["growth_exponents"] = growth(results)
    text = json.dumps(content, indent=1)
    print(text)
    if args.output is not None:
        args.output.write_text(text)


if __name__ == "__main__":
    main()
