"""Recall and false positives of near-duplicates, and time and memory of building evaluation sets.

python tools/bench_duplicates.py copies PHOTOS [PHOTOS ...] --output copies.json
python tools/bench_duplicates.py memory WORK --pairs 100000 --output memory.json
"""

from __future__ import annotations

import argparse
import io
import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from clipkit.data import ShardWriter
from clipkit.data.images.formats import WHITE, to_rgb
from clipkit.data.images.perceptual_hash import image_signature
from clipkit.evaluation.building.duplicates.image_duplicates import duplicate_images

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
LIMITS = (12, 16, 20, 24, 28, 32)
NUM_WORDS = 20_000


def cropped(image: Image.Image, share: float, rng: np.random.Generator) -> Image.Image:
    """A part of the image, at a random place."""
    width, height = round(share * image.width), round(share * image.height)
    left = int(rng.integers(0, image.width - width + 1))
    top = int(rng.integers(0, image.height - height + 1))
    return image.crop((left, top, left + width, top + height))


def stored(image: Image.Image, kind: str = "JPEG", quality: int = 90) -> bytes:
    out = io.BytesIO()
    image.convert("RGB").save(out, kind, quality=quality)
    return out.getvalue()


COPIES: dict[str, Callable[[Image.Image, np.random.Generator], bytes]] = {
    "half the size": lambda i, _: stored(i.resize((i.width // 2, i.height // 2))),
    "a quarter of the size": lambda i, _: stored(i.resize((i.width // 4, i.height // 4))),
    "other aspect ratio": lambda i, _: stored(i.resize((224, 160))),
    "JPEG, quality 50": lambda i, _: stored(i, quality=50),
    "JPEG, quality 15": lambda i, _: stored(i, quality=15),
    "WebP, quality 40": lambda i, _: stored(i, "WEBP", 40),
    "20 % brighter": lambda i, _: stored(i.point(lambda v: min(255, int(1.2 * v)))),
    "without colours": lambda i, _: stored(i.convert("L")),
    "mirrored": lambda i, _: stored(ImageOps.mirror(i)),
    "mirrored, smaller, quality 50": lambda i, _: stored(
        ImageOps.mirror(i).resize((i.width // 2, i.height // 2)), quality=50
    ),
    "98 % of each side": lambda i, rng: stored(cropped(i, 0.98, rng)),
    "95 % of each side": lambda i, rng: stored(cropped(i, 0.95, rng)),
    "90 % of each side": lambda i, rng: stored(cropped(i, 0.90, rng)),
    "middle 90 % of each side": lambda i, _: stored(ImageOps.crop(i, round(0.05 * min(i.size)))),
    "rotated by 2 degrees": lambda i, _: stored(i.rotate(2, Image.Resampling.BICUBIC)),
}


def measure_copies(folders: list[Path], limit: int, most: int | None) -> dict[str, object]:
    """One copy of each image at a time among all images: found, and false pairs."""
    files = sorted(f for each in folders for f in each.rglob("*") if f.suffix.lower() in SUFFIXES)
    rng = np.random.default_rng(0)
    files = [files[at] for at in sorted(rng.permutation(len(files))[:most].tolist())]
    own, copies, seconds = [], {name: [] for name in COPIES}, 0.0
    for file in files:
        data = file.read_bytes()
        start = time.perf_counter()
        own.append(image_signature(data))
        seconds += time.perf_counter() - start
        image = to_rgb(Image.open(io.BytesIO(data)), WHITE)
        for name, change in COPIES.items():
            copies[name].append(image_signature(change(image, rng)))
    count = len(files)
    recalls = {}
    for name, signatures in copies.items():
        found = duplicate_images(np.stack([*own, *signatures]), max(LIMITS))
        pairs = {(found.same[n], found.same[n + count]) for n in range(count)}
        equal = sum(a == b for a, b in pairs)
        distances = [
            distance
            for a, b, distance in zip(
                found.pairs.first, found.pairs.second, found.pairs.values, strict=True
            )
            if (a, b) in pairs or (b, a) in pairs
        ]
        recalls[name] = {
            most: (equal + sum(d <= most for d in distances)) / count for most in LIMITS
        }
    found = duplicate_images(np.stack(own), max(LIMITS))
    shown = [
        [int(d), *(str(files[found.representatives[row]].name) for row in (a, b))]
        for a, b, d in zip(found.pairs.first, found.pairs.second, found.pairs.values, strict=True)
        if d <= limit
    ]
    return {
        "images": count,
        "milliseconds_per_image": 1000 * seconds / count,
        "recall": recalls,
        "pairs_of_originals": count * (count - 1) // 2,
        "originals_with_equal_hash": count - len(found.representatives),
        "pairs_within": {most: int((found.pairs.values <= most).sum()) for most in LIMITS},
        f"pairs_within_{limit}": shown,
    }


def caption(rng: np.random.Generator) -> str:
    """6 to 14 words, which are as frequent as words of a language are (Zipf)."""
    ranks = np.exp(rng.random(int(rng.integers(6, 15))) * np.log(NUM_WORDS)).astype(int)
    return " ".join(f"word{rank}" for rank in ranks.tolist())


def write_pairs(folder: Path, count: int) -> None:
    """Shards of soft random images of 96 x 64 pixels with five captions; one in 50 is a copy."""
    rng = np.random.default_rng(0)
    previous = b""
    for start in range(0, count, 10_000):
        with ShardWriter(folder / f"{start // 10_000:05d}.tar") as shard:
            for number in range(start, min(count, start + 10_000)):
                coarse = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
                image = coarse.resize((96, 64), Image.Resampling.BICUBIC)
                if number % 50 == 1:
                    image = Image.open(io.BytesIO(previous))
                previous = stored(image, quality=60 if number % 50 == 1 else 85)
                captions = [caption(rng) for _ in range(5)]
                members = {"jpg": previous, "txt": "\n".join(captions).encode()}
                shard.write(f"{number:09d}", members)


def measure_memory(work: Path, count: int, workers: int) -> dict[str, object]:
    """Build in a process of its own, and report its seconds and peak memory."""
    source, out = work / f"pairs-{count}", work / f"built-{count}"
    if not source.exists():
        write_pairs(source, count)
    words = ["evaluate", "build", str(source), str(out), "--test-size", "0.1", "--overwrite",
             "--num-workers", str(workers)]  # fmt: skip
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "clipkit.cli.main", *words], check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    facts = json.loads((out / "statistics.json").read_text())
    return {
        "pairs": count,
        "captions": 5 * count,
        "seconds": seconds,
        "peak_mib": peak / 1024,
        "leakage": {k: v for k, v in facts["leakage"].items() if k.startswith("num_")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    commands = parser.add_subparsers(dest="command", required=True)
    copies = commands.add_parser("copies")
    copies.add_argument("folders", type=Path, nargs="+")
    copies.add_argument("--limit", type=int, default=24, help="pairs of originals that are listed")
    copies.add_argument("--images", type=int, help="number of images, at random; default: all")
    memory = commands.add_parser("memory")
    memory.add_argument("work", type=Path)
    memory.add_argument("--pairs", type=int, default=100_000)
    memory.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    for each in (copies, memory):
        each.add_argument("--output", type=Path)
    args = parser.parse_args()
    if args.command == "copies":
        result = measure_copies(args.folders, args.limit, args.images)
    else:
        result = measure_memory(args.work, args.pairs, args.workers)
    result["python"] = platform.python_version()
    text = json.dumps(result, indent=1)
    print(text)
    if args.output is not None:
        args.output.write_text(text + "\n")


if __name__ == "__main__":
    main()
