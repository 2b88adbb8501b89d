"""Decoding at the size of a stage of ``TokenSchedule``, against complete images.

    OMP_NUM_THREADS=1 python tools/bench_stages.py PHOTOS --work DIR --output stages.json

Makes shards of the photos in two sizes, and reads them in this process without workers: images per
second and CPU time of an image for each size, in rounds of all sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from loader_shards import make_shards, photos_of

from clipkit.data import OpenClipTokenizer, PairStream, ShardIndex
from clipkit.data.order.image_sizes import ImageSizeStage
from clipkit.types import Batch

SETS = {"500 pixels": (500, 500), "1024 to 2000 pixels": (1024, 2000)}
FULL_SIZE = 224
FOREVER = (2**62, 0)


def endless(folder: Path, image_size: int, batch_size: int) -> Iterator[Batch]:
    """Batches with images of one size, epoch after epoch."""
    stream = PairStream(
        ShardIndex.from_urls(str(folder / "*.tar")),
        tokenizer=OpenClipTokenizer("ViT-B-32"),
        batch_size=batch_size,
        image_size=FULL_SIZE,
        rank=0,
        world_size=1,
    )
    stream.set_image_sizes([ImageSizeStage(image_size, FOREVER)])
    while True:
        for batch in stream:
            stream.commit(batch)
            yield batch


def measure(batches: Iterator[Batch], seconds: float) -> tuple[float, float]:
    """Images per second, and milliseconds of CPU time per image."""
    start, before, images = time.perf_counter(), time.process_time(), 0
    while time.perf_counter() - start < seconds:
        images += len(next(batches))
    busy = time.process_time() - before
    return images / (time.perf_counter() - start), 1000 * busy / images


def measure_set(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Medians over the rounds for each size."""
    loaders = {size: endless(folder, size, options.batch_size) for size in options.sizes}
    for batches in loaders.values():
        next(batches)  # imports, files, and memory that threads keep
    found: dict[int, list[tuple[float, float]]] = {size: [] for size in loaders}
    for _ in range(options.rounds):
        for size, batches in loaders.items():
            found[size].append(measure(batches, options.seconds))
    rates, costs = (
        {size: statistics.median(row[column] for row in rows) for size, rows in found.items()}
        for column in (0, 1)
    )
    return {
        str(size): {
            "images_per_second": round(rates[size], 1),
            "cpu_milliseconds_per_image": round(costs[size], 3),
            "times_the_rate_of_complete_images": round(rates[size] / rates[FULL_SIZE], 2),
            "rounds": [round(rate, 1) for rate, _ in found[size]],
        }
        for size in loaders
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="+", help="folders of JPEGs")
    parser.add_argument("--work", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--sizes", type=int, nargs="+", default=[FULL_SIZE, 160, 112])
    parser.add_argument("--samples", type=int, default=248)
    parser.add_argument("--batch-size", type=int, default=31)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each size in a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "versions": {name: version(name) for name in ("torch", "pillow", "simplejpeg", "numpy")},
        "sets": {},
    }
    for name, longer_sides in SETS.items():
        folder = options.work / name.replace(" ", "_")
        facts = make_shards(
            photos_of(options.photos), folder, longer_sides, options.samples, num_shards=2
        )
        report["sets"][name] = {"shards": facts, "sizes": measure_set(folder, options)}
    text = json.dumps(report, indent=2)
    if options.output:
        options.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
