"""Time and memory of the facts of the data page, for simulated collections.

    python tools/bench_data_page.py WORK --rows 100000 1000000 --output data_page.json

Images are in 500 groups of similar embeddings, captions have 8 to 15 words of a vocabulary of
20,000 with the frequencies of a language (Zipf), one image in 50 is a copy of another one, and one
pair in ten is mismatched. Shards have 10,000 samples. There are no image files: the page reads at
most a thousand of them, whatever the number of rows.
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from clipkit.curation.overview import describe_data

WIDTH = 512
GROUPS = 500
SHARD_ROWS = 10_000
VOCABULARY = 20_000
COPIES = 50
MISMATCHED = 0.1
NOISE = 1.0


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows of unit norm in half precision."""
    scaled: np.ndarray = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled.astype(np.float16)


def simulated_rows(number: int, centres: np.ndarray) -> ShardRows:
    """The rows of one shard."""
    rng = np.random.default_rng(number)
    group = rng.integers(GROUPS, size=SHARD_ROWS)
    noise = rng.standard_normal((2, SHARD_ROWS, WIDTH), dtype=np.float32) * NOISE / WIDTH**0.5
    images = centres[group] + noise[0]
    text_group = np.where(
        rng.random(SHARD_ROWS) < MISMATCHED, rng.integers(GROUPS, size=SHARD_ROWS), group
    )
    files = rng.integers(0, 256, (SHARD_ROWS, 32), dtype=np.uint8)
    signatures = rng.integers(0, 256, (SHARD_ROWS, 40), dtype=np.uint8)
    for rows in (images, files, signatures):
        rows[1::COPIES] = rows[::COPIES]
    words = np.minimum(rng.zipf(1.3, (SHARD_ROWS, 15)), VOCABULARY - 1)
    lengths = rng.integers(8, 16, SHARD_ROWS)
    pairs = zip(words.tolist(), lengths.tolist(), text_group.tolist(), strict=True)
    captions = [
        [" ".join([f"group{of}", *(f"w{word}" for word in row[:length])])]
        for row, length, of in pairs
    ]
    columns: dict[str, Any] = {
        "key": [f"{number:05d}{row:06d}" for row in range(SHARD_ROWS)],
        "captions": captions,
        "label": (group % 100).tolist(),
        "image_type": ["jpg"] * SHARD_ROWS,
        "image_offset_bytes": [512] * SHARD_ROWS,
        "image_size_bytes": [1] * SHARD_ROWS,
        "width_pixels": [224] * SHARD_ROWS,
        "height_pixels": [224] * SHARD_ROWS,
        "image_sha256": [row.tobytes() for row in files],
        "image_signature": [row.tobytes() for row in signatures],
        "error": [None] * SHARD_ROWS,
    }
    return ShardRows(unit(images), unit(centres[text_group] + noise[1]), columns)


def simulate(folder: Path, num_rows: int) -> None:
    """Write a collection."""
    shards = tuple(
        CollectionShard(f"{number:05d}", f"{number:05d}.tar", SHARD_ROWS, 0)
        for number in range(num_rows // SHARD_ROWS)
    )
    folder.mkdir(parents=True)
    centres = unit(np.random.default_rng(0).standard_normal((GROUPS, WIDTH))).astype(np.float32)
    for number, shard in enumerate(shards):
        write_shard_files(simulated_rows(number, centres), folder, shard.name)
    info = CollectionInfo(
        model="simulated", weights=None, model_hash="", data="simulated", split="test",
        embedding_dim=WIDTH, precision="fp32", has_texts=True, columns=(), class_names=(),
        shards=shards,
    )  # fmt: skip
    write_info(info, folder)


class OwnMemory(threading.Thread):
    """The peak of this process' own memory, without files that are mapped into it."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak_mib = 0
        self._ended = threading.Event()

    def run(self) -> None:
        """Look every 50 ms."""
        while not self._ended.wait(0.05):
            lines = Path("/proc/self/status").read_text().splitlines()
            (size,) = [line.split()[1] for line in lines if line.startswith("RssAnon")]
            self.peak_mib = max(self.peak_mib, int(size) // 1024)

    def end(self) -> int:
        """Stop, and return the peak in MiB."""
        self._ended.set()
        self.join()
        return self.peak_mib


def describe(folder: Path) -> dict[str, Any]:
    """Describe a collection in this process: seconds of each step, and the peak of the memory."""
    seconds: dict[str, float] = {}

    @contextmanager
    def timed(step: str) -> Iterator[Callable[[int, int | None], None]]:
        start = time.perf_counter()
        yield lambda _, __: None
        seconds[step] = round(time.perf_counter() - start, 2)

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = OwnMemory()
    memory.start()
    start, cpu = time.perf_counter(), time.process_time()
    facts = describe_data(Collection(folder), progress=timed)
    return {
        "rows": facts.num_samples,
        "seconds": round(time.perf_counter() - start, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "steps": seconds,
        "imported_mib": before // 1024,
        "peak_mib": memory.end(),
        "peak_with_mapped_files_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "clusters": len(facts.clusters),
        "copies": {kind.kind: kind.num_copies for kind in facts.duplicates},
        "estimated_mismatched": facts.pairs and facts.pairs.estimated_mismatched_share,
        "json_bytes": len(json.dumps(facts.as_json())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--describe", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.describe:
        print(json.dumps(describe(args.work)))
        return
    results = []
    for num_rows in args.rows:
        folder = args.work / str(num_rows)
        shutil.rmtree(folder, ignore_errors=True)
        simulate(folder, num_rows)
        words = [sys.executable, __file__, str(folder), "--describe"]
        results.append(json.loads(subprocess.check_output(words)))
        print(json.dumps(results[-1]), flush=True)
        shutil.rmtree(folder)
    content = {"python": platform.python_version(), "numpy": np.__version__, "results": results}
    if args.output is not None:
        args.output.write_text(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
