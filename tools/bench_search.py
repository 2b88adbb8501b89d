"""Search in simulated collections: exact, with an index, and with other programs.

python tools/bench_search.py --rows 100000 1000000 --folder /scratch/search --output search.json

The vectors are simulated (tools/simulated_collection.py, around 1,000 centres). Each part runs in a
process of its own; memory is the process's own, without mapped files.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from clipkit.collection import Collection
from clipkit.search import ExactEngine, SearchEngine
from clipkit.search.index import BuildOptions, build_index, index_factory, open_engine
from tools.simulated_collection import CENTRES, write_simulated

WIDTH = 512
NUM_RESULTS = 10
NUM_QUERIES = 256
BATCH = 32
SECONDS = 20.0
LARGEST_IN_MEMORY = 2_000_000
PARTS = ("exact", "build", "index", "numpy", "faiss_flat")


class OwnMemory:
    """The largest memory of this process during a block, without mapped files, in MiB."""

    def __enter__(self) -> OwnMemory:
        self.mib = 0.0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while True:
            status = Path("/proc/self/status").read_text()
            (line,) = (line for line in status.splitlines() if line.startswith("RssAnon"))
            self.mib = max(self.mib, int(line.split()[1]) / 1024)
            if self._ended.wait(0.05):
                return


def queries_of() -> np.ndarray:
    """Queries around the same centres, which are not in the collection."""
    centres = np.random.default_rng(0).standard_normal((CENTRES, WIDTH)).astype(np.float32)
    rng = np.random.default_rng((2, 0))
    queries = rng.standard_normal((NUM_QUERIES, WIDTH), dtype=np.float32)
    queries += centres[rng.integers(0, CENTRES, NUM_QUERIES)]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    return queries


def timed(search: Callable[[np.ndarray], object], queries: np.ndarray) -> dict[str, float]:
    """Seconds per query one by one, and queries per second in batches."""
    search(queries[:1])
    single, started = [], time.perf_counter()
    while len(single) < 5 or (
        time.perf_counter() - started < SECONDS and len(single) < len(queries)
    ):
        at = len(single) % len(queries)
        before = time.perf_counter()
        search(queries[at : at + 1])
        single.append(time.perf_counter() - before)
    batches, started = 0, time.perf_counter()
    while batches < 2 or (time.perf_counter() - started < SECONDS and batches < 8):
        search(queries[batches * BATCH % NUM_QUERIES :][:BATCH])
        batches += 1
    seconds = time.perf_counter() - started
    return {
        "num_single": len(single),
        "p50_ms": 1000 * float(np.percentile(single, 50)),
        "p99_ms": 1000 * float(np.percentile(single, 99)),
        "queries_per_second": len(single) / sum(single),
        "queries_per_second_in_batches_of_32": batches * BATCH / seconds,
    }


def recall_of(found: np.ndarray, true: np.ndarray) -> float:
    """Recall: share of the true rows that were found."""
    shares = [
        len(set(a) & set(b)) / len(b) for a, b in zip(found.tolist(), true.tolist(), strict=True)
    ]
    return float(np.mean(shares))


def of_engine(engine: SearchEngine, queries: np.ndarray) -> dict[str, float]:
    return timed(lambda some: engine.search(some, NUM_RESULTS), queries)


def exact(folder: Path, queries: np.ndarray) -> dict[str, object]:
    engine = ExactEngine(Collection(folder))
    with OwnMemory() as memory:
        result: dict[str, object] = of_engine(engine, queries)
    found = engine.search(queries, NUM_RESULTS)
    np.save(folder / "true.npy", found.rows)
    return {**result, "recall_at_10": 1.0, "own_memory_mib": memory.mib}


def build(folder: Path, _: np.ndarray) -> dict[str, object]:
    collection = Collection(folder)
    factory = index_factory(len(collection), WIDTH)
    with OwnMemory() as memory:
        before = time.perf_counter()
        info = build_index(collection, BuildOptions(factory))
        total = time.perf_counter() - before
    files = sum(path.stat().st_size for path in (folder / "index").iterdir())
    return {
        "factory": factory, "num_probes": info.num_probes, "total_seconds": total,
        "seconds": info.seconds, "measured_recall_at_10": info.recall_at_10, "size_bytes": files,
        "own_memory_mib": memory.mib,
    }  # fmt: skip


def index(folder: Path, queries: np.ndarray) -> dict[str, object]:
    with OwnMemory() as memory:
        engine = open_engine(Collection(folder))
        result: dict[str, object] = of_engine(engine, queries)
    found = engine.search(queries, NUM_RESULTS).rows
    recall = recall_of(found, np.load(folder / "true.npy"))
    return {**result, "recall_at_10": recall, "own_memory_mib": memory.mib}


def numpy(folder: Path, queries: np.ndarray) -> dict[str, object]:
    """The plain way: convert the mapped rows, multiply, sort a part."""
    collection = Collection(folder)

    def search(some: np.ndarray) -> np.ndarray:
        products = [
            some @ images.astype(np.float32).T for _, images in collection.image_tiles(65_536)
        ]
        scores = np.concatenate(products, axis=1)
        return np.argpartition(-scores, NUM_RESULTS, axis=1)[:, :NUM_RESULTS]

    with OwnMemory() as memory:
        result: dict[str, object] = timed(search, queries)
    recall = recall_of(search(queries), np.load(folder / "true.npy"))
    return {**result, "recall_at_10": recall, "own_memory_mib": memory.mib}


def faiss_flat(folder: Path, queries: np.ndarray) -> dict[str, object]:
    """IndexFlatIP of FAISS: float32 in memory."""
    import faiss

    collection = Collection(folder)
    if len(collection) > LARGEST_IN_MEMORY:
        return {"skipped": f"needs {len(collection) * WIDTH * 4 / 1e9:.0f} GB of memory"}
    with OwnMemory() as memory:
        before = time.perf_counter()
        flat = faiss.IndexFlatIP(WIDTH)
        for _, images in collection.image_tiles(65_536):
            flat.add(images.astype(np.float32))
        seconds = time.perf_counter() - before
        result: dict[str, object] = timed(lambda some: flat.search(some, NUM_RESULTS), queries)
    recall = recall_of(flat.search(queries, NUM_RESULTS)[1], np.load(folder / "true.npy"))
    return {
        "load_seconds": seconds, **result, "recall_at_10": recall, "own_memory_mib": memory.mib,
    }  # fmt: skip


def of_rows(num_rows: int, folder: Path, parts: list[str]) -> dict[str, object]:
    """Write a collection, measure parts in processes of their own, and delete it."""
    place = folder / str(num_rows)
    before = time.perf_counter()
    write_simulated(place, num_rows, WIDTH, "simulated", "")
    result: dict[str, object] = {
        "num_rows": num_rows, "simulation_seconds": time.perf_counter() - before,
    }  # fmt: skip
    try:
        for part in parts:
            words = [sys.executable, __file__, "--part", part, "--folder", str(place)]
            done = subprocess.run(words, capture_output=True, text=True, check=False)
            if done.returncode:
                raise RuntimeError(f"{part}: {done.stderr[-2000:]}")
            result[part] = json.loads(done.stdout.splitlines()[-1])
            print(num_rows, part, done.stdout.splitlines()[-1], file=sys.stderr)
    finally:
        shutil.rmtree(place)
    return result


def exponents(results: list[dict[str, object]]) -> dict[str, float]:
    """Growth exponents between the smallest and the largest number of rows."""
    first, last = results[0], results[-1]
    ratio = math.log(last["num_rows"] / first["num_rows"])

    def exponent(part: str, name: str) -> float:
        return math.log(last[part][name] / first[part][name]) / ratio

    return {
        f"{part}: {name}": exponent(part, name)
        for part, name in (
            ("exact", "p50_ms"), ("exact", "own_memory_mib"), ("index", "p50_ms"),
            ("build", "total_seconds"), ("build", "own_memory_mib"), ("index", "own_memory_mib"),
        )
        if part in first and part in last
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, required=True, help="scratch folder, on a disk")
    of_parts = "what to measure; exact first, which finds the true results"
    parser.add_argument("--parts", nargs="+", default=list(PARTS), choices=PARTS, help=of_parts)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part is not None:
        parts = {
            "exact": exact,
            "build": build,
            "index": index,
            "numpy": numpy,
            "faiss_flat": faiss_flat,
        }
        print(json.dumps(parts[args.part](args.folder, queries_of())))
        return
    results = [of_rows(rows, args.folder, args.parts) for rows in sorted(args.rows)]
    content = {
        "vectors": f"simulated around {CENTRES} centres, {WIDTH} components",
        "num_cpus": os.cpu_count(),
        "threads": torch.get_num_threads(), "load_average_at_end": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "numpy": np.__version__,
                     "torch": torch.__version__},
        "results": results,
        "growth_exponents": exponents(results) if len(results) > 1 else {},
    }  # fmt: skip
    text = json.dumps(content, indent=2)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
