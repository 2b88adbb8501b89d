"""Speed and memory of clipkit embed, and what kill -9 costs.

python tools/bench_embed.py speed WORK --photos flickr8k/images --output speed.json
python tools/bench_embed.py memory WORK --samples 1000 10000 100000 --output memory.json
python tools/bench_embed.py kill WORK --kills 10 --output kill.json

``speed`` compares with CLIP_benchmark, and with clip-retrieval if ``--clip-retrieval`` names a
folder with its source code. ``memory`` and ``kill`` use small simulated images and a tiny model.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tarfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

TINY = {
    "embed_dim": 512,
    "vision_cfg": {"image_size": 16, "patch_size": 8, "width": 16, "head_width": 8, "layers": 1},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
PER_SHARD = 1000
CAPTION = "a photo of a small red house by the long river"


def write_tar(path: Path, samples: list[tuple[str, dict[str, bytes]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for key, members in samples:
            for extension, data in members.items():
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_photos(folder: Path, photos: Path, count: int, per_shard: int, kind: str) -> Path:
    """Photos with a caption and a class in CLIP_benchmark's layout; repeated if there are few."""
    files = sorted(photos.rglob("*.jpg"))
    members = [
        {"jpg": files[n % len(files)].read_bytes(), "txt": CAPTION.encode(), "cls": b"0"}
        for n in range(count)
    ]
    for first in range(0, count, per_shard):
        samples = [(f"{n:08d}", members[n]) for n in range(first, min(first + per_shard, count))]
        write_tar(folder / "test" / f"{first // per_shard}.tar", samples)
    (folder / "test/nshards.txt").write_text(f"{-(-count // per_shard)}\n")
    (folder / "dataset_type.txt").write_text(kind)
    (folder / "classnames.txt").write_text("photo\n")
    (folder / "zeroshot_classification_templates.txt").write_text("{c}\n")
    return folder


def write_simulated(folder: Path, count: int, per_shard: int) -> None:
    """Small random images with a caption; 256 different files."""
    from PIL import Image

    rng, files = np.random.default_rng(0), []
    for _ in range(256):
        out = io.BytesIO()
        Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(out, "JPEG")
        files.append(out.getvalue())
    for first in range(0, count, per_shard):
        samples = [
            (f"{n:08d}", {"jpg": files[n % 256], "txt": f"{CAPTION} {n}".encode()})
            for n in range(first, min(first + per_shard, count))
        ]
        write_tar(folder / f"{first // per_shard:05d}.tar", samples)


def speed(args: argparse.Namespace) -> dict[str, Any]:
    """Images per second of each contender, and ratios to clipkit, in alternating rounds."""
    import torch

    from tools import embed_contenders as contenders

    torch.set_num_threads(args.threads)
    model = contenders.OpenClip(args.model)
    ways = {"clipkit": contenders.clipkit, "CLIP_benchmark": contenders.clip_benchmark}
    if args.clip_retrieval is not None:
        ways["clip-retrieval"] = partial(contenders.clip_retrieval, args.clip_retrieval)
    result: dict[str, Any] = {}
    for content, kind in (("images", "classification"), ("pairs", "retrieval")):
        root = write_photos(args.work / content, args.photos, args.images, args.per_shard, kind)
        options = {
            "batch_size": args.batch_size, "num_workers": args.workers,
            "images_only": content == "images",
        }  # fmt: skip
        runs: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for _ in range(args.rounds):
            for name, embed in ways.items():
                before = cpu_seconds()
                seconds = embed(model, root, args.work / f"{name}.out", options)
                runs[name].append((seconds, cpu_seconds() - before))
        result[content] = {name: of_runs(args.images, runs[name], runs["clipkit"]) for name in ways}
    return result


def cpu_seconds() -> float:
    """Seconds of all cores that this process and its ended workers used."""
    return sum(os.times()[:4])


def of_runs(
    num_images: int, runs: list[tuple[float, float]], ours: list[tuple[float, float]]
) -> dict[str, Any]:
    """Medians of wall and CPU seconds, and what clipkit saves of them as a factor."""
    wall, cpu = (statistics.median(values) for values in zip(*runs, strict=True))
    our_wall, our_cpu = (statistics.median(values) for values in zip(*ours, strict=True))
    return {
        "images_per_second": round(num_images / wall, 2),
        "cpu_milliseconds_per_image": round(1000 * cpu / num_images, 2),
        "clipkit_is_faster_by": round(wall / our_wall, 3),
        "clipkit_needs_less_cpu_by": round(cpu / our_cpu, 3),
        "runs": [[round(value, 2) for value in run] for run in runs],
    }


def words_of(work: Path, source: Path, output: Path, workers: int) -> list[str]:
    return [
        "embed", str(source), "--model", str(work / "tiny.json"), "--device", "cpu",
        "--output", str(output), "--num-workers", str(workers),
    ]  # fmt: skip


def start(mode: str, words: list[str]) -> subprocess.Popen[str]:
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(
        [sys.executable, __file__, mode, *words],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root)},
    )


def child(words: list[str]) -> None:
    """Run the command with weights that are always the same, and print the peaks of memory."""
    import resource

    import torch

    from clipkit.cli.main import main as clipkit

    torch.manual_seed(0)
    status = clipkit(words)
    peaks = [resource.getrusage(who).ru_maxrss / 1024 for who in (0, resource.RUSAGE_CHILDREN)]
    print(json.dumps({"main_mib": round(peaks[0], 1), "worker_mib": round(peaks[1], 1)}))
    sys.exit(status)


def memory(args: argparse.Namespace) -> dict[str, Any]:
    """Peak memory by number of samples, in shards of 1,000, and the fewest in one shard."""
    rows = []
    runs = [(count, PER_SHARD) for count in args.samples] + [(args.samples[0],) * 2]
    for count, per_shard in runs:
        source, output = args.work / f"{count}-{per_shard}", args.work / "out"
        write_simulated(source, count, per_shard)
        shutil.rmtree(output, ignore_errors=True)
        begin = time.perf_counter()
        process = start("child", words_of(args.work, source, output, args.workers))
        out, _ = process.communicate()
        if process.returncode:
            raise RuntimeError(out)
        sizes = {
            kind: sum(path.stat().st_size for path in output.glob(f"*{kind}"))
            for kind in (".images.f16.npy", ".texts.f16.npy", ".parquet")
        }
        peaks = json.loads(out.splitlines()[-1])
        rows.append({
            "samples": count, "per_shard": per_shard, **peaks,
            "seconds": round(time.perf_counter() - begin, 1),
            "bytes_per_sample": {kind: round(size / count, 1) for kind, size in sizes.items()},
        })  # fmt: skip
        print(rows[-1], file=sys.stderr)
        shutil.rmtree(source)
    first, last = rows[0], rows[len(args.samples) - 1]
    growth = math.log(last["samples"] / first["samples"])
    exponents = {
        name: round(math.log(last[name] / first[name]) / growth, 4)
        for name in ("main_mib", "worker_mib")
        if growth
    }
    return {"runs": rows, "growth_exponent": exponents}


def collection_of(folder: Path) -> dict[str, Any]:
    """Content of each file, tables as rows."""
    import pyarrow.parquet

    return {
        path.name: pyarrow.parquet.read_table(path).to_pylist()
        if path.suffix == ".parquet"
        else path.read_bytes()
        for path in sorted(folder.iterdir())
        if not path.name.startswith(".")
    }


def kill(args: argparse.Namespace) -> dict[str, Any]:
    """Kill the command at random moments until it has ended; compare with an undisturbed run."""
    rng, source = random.Random(0), args.work / "simulated"
    write_simulated(source, args.samples[0], PER_SHARD // 10)
    expected, output = args.work / "expected", args.work / "killed"
    start("child", words_of(args.work, source, expected, args.workers)).communicate()
    num_shards = len(list(expected.glob("*.parquet")))
    kills, repeated, complete = 0, 0, dict[str, int]()
    while len(complete) < num_shards:
        process = start("child", words_of(args.work, source, output, args.workers))
        target = len(complete) + rng.randint(1, max(1, num_shards // args.kills))
        while process.poll() is None and len(list(output.glob("*.parquet"))) < target:
            time.sleep(0.01)
        if process.poll() is None:
            time.sleep(rng.random() * 0.2)
            process.kill()
            kills += 1
        process.communicate()
        now = {path.name: path.stat().st_mtime_ns for path in output.glob("*.parquet")}
        repeated += sum(now.get(name) != stamp for name, stamp in complete.items())
        complete = now
    start("child", words_of(args.work, source, output, args.workers)).communicate()
    same = collection_of(output) == collection_of(expected)
    return {"kills": kills, "shards": num_shards, "shards_lost_or_repeated": repeated,
            "equal_to_an_undisturbed_run": same}  # fmt: skip


def main() -> None:
    if sys.argv[1:2] == ["child"]:
        child(sys.argv[2:])
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("speed", "memory", "kill"))
    parser.add_argument("work", type=Path, help="a folder for data and outputs")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--photos", type=Path, help="folder of JPEGs, for speed")
    parser.add_argument("--model", default="ViT-B-32")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--per-shard", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--clip-retrieval", type=Path, help="folder of its source code")
    parser.add_argument("--samples", type=int, nargs="+", default=[10_000])
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--kills", type=int, default=10)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    (args.work / "tiny.json").write_text(json.dumps(TINY))
    begin = time.perf_counter()
    result = {"speed": speed, "memory": memory, "kill": kill}[args.what](args)
    result["conditions"] = {
        "machine": platform.machine(), "cores": os.cpu_count(), "workers": args.workers,
        "load": os.getloadavg(), "seconds": round(time.perf_counter() - begin),
    }  # fmt: skip
    args.output.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
