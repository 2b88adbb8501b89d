"""Loaders of image-text pairs against each other: clipkit's stream and open_clip's own loader.

    pip install --no-deps --target PEER 'webdataset==0.2.86'    # what open_clip's trainer pins
    cp -r CLONE/src/open_clip CLONE/src/open_clip_train PEER/   # its main branch, if that is meant
    python tools/bench_loader.py PHOTOS [PHOTOS ...] --peer PEER --work DIR --output loader.json

Makes shards of the photos (their longer sides resized to 500, and to 1,024 to 2,000 pixels), then
measures each loader in processes of its own, with the same shards, crops, batch and numbers of
workers: images a second, memory of a worker, share of each step; of the stream also the time to the
first batch, fresh and late in an epoch, the waiting at the ends of epochs and the shared memory of
large batches, and the cost of planning up to a billion samples. Rates count until normalised floats
are in the main process: open_clip's workers make them, clipkit's images arrive as bytes and are
normalised there. Each rate is a few seconds of one epoch, after warming up; open_clip's shuffle
buffer is still growing then.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from loader_shards import make_shards, photos_of

ROOT = Path(__file__).parents[1]
SETS = {
    "500 pixels": {"longer_sides": (500, 500), "num_samples": 6144},
    "1024 to 2000 pixels": {"longer_sides": (1024, 2000), "num_samples": 2048},
}
NUM_SHARDS = 8
PLANNED_SAMPLES = (10**6, 10**8, 10**9)
PARTS = ("rates", "steps", "first-batch", "borders", "planning")
LOADERS = ("clipkit", "open_clip")
RATED = (*LOADERS, "clipkit_webdataset")
"""Loaders whose rates are measured; the last one is `WebDatasetSource`."""


def run_child(task: dict[str, Any], peer: Path | None) -> dict[str, Any]:
    """One measurement in a new process with one thread a process."""
    paths = [str(ROOT)] if peer is None else [str(peer), str(ROOT)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    environment.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    command = [sys.executable, str(ROOT / "tools" / "loader_runs.py"), json.dumps(task)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise SystemExit(f"{task}\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure_rates(task: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Images a second of all loaders, one after the other, for each number of workers."""
    rows = []
    for num_workers in options.workers:
        for loader in RATED:
            one = {**task, "what": "throughput", "loader": loader, "num_workers": num_workers}
            found = run_child(one, options.peer if loader == "open_clip" else None)
            rows.append({"loader": loader, "num_workers": num_workers, **found})
            say(rows[-1])
    return rows


def measure_steps(task: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Milliseconds of each step of both loaders."""
    found = {}
    for loader in LOADERS:
        one = {**task, "what": "steps", "loader": loader, "num_batches": options.step_batches}
        found[loader] = run_child(one, options.peer if loader == "open_clip" else None)
        say({"steps": loader, **found[loader]})
    return found


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How many times open_clip's rate clipkit's is, by number of workers."""
    rates = {(row["loader"], row["num_workers"]): row["images_per_second"] for row in rows}
    return {
        f"{number} workers": round(rates["clipkit", number] / rates["open_clip", number], 2)
        for number in sorted({row["num_workers"] for row in rows})
    }


def measure_set(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """Everything about one set of shards."""
    folder = options.work / name.replace(" ", "_")
    facts = make_shards(
        photos_of(options.photos), folder, num_shards=NUM_SHARDS, quality=90, **SETS[name]
    )
    task = {
        "shards": str(folder),
        "num_shards": NUM_SHARDS,
        "num_samples": SETS[name]["num_samples"],
        "batch_size": options.batch_size,
        "seconds": options.seconds,
    }
    found: dict[str, Any] = {"shards": facts}
    if "rates" in options.parts:
        found["rates"] = measure_rates(task, options)
        found["times_open_clip"] = ratios(found["rates"])
    if "steps" in options.parts:
        found["steps"] = measure_steps(task, options)
    if "first-batch" in options.parts:
        late = {**task, "what": "first_batch", "num_workers": 1, "late": 0.9, "repeats": 7}
        found["first_batch"] = run_child(late, None)
        say(found["first_batch"])
    if "borders" in options.parts:
        found["borders"] = measure_borders(task, options)
    return found


def measure_borders(task: dict[str, Any], options: argparse.Namespace) -> list[dict[str, Any]]:
    """Waiting at the start and at the ends of epochs, and shared memory, of large batches."""
    rows = []
    for batch_size in options.large_batches:
        sizes = {"batch_size": batch_size, "num_workers": max(options.workers)}
        run = {**sizes, "epochs": 3, "step_seconds": options.step_seconds}
        rows.append({**run, **run_child({**task, **run, "what": "borders"}, None)})
        say(rows[-1])
    return rows


def measure_planning() -> list[dict[str, Any]]:
    """The order of simulated data sets, on 64 ranks of 256 samples."""
    rows = []
    for num_samples in PLANNED_SAMPLES:
        task = {"num_samples": num_samples, "batch_size": 256, "world_size": 64}
        rows.append({**task, **run_child({**task, "what": "planning"}, None)})
        say(rows[-1])
    return rows


def say(row: dict[str, Any]) -> None:
    """Progress, for those who wait."""
    print(json.dumps(row), file=sys.stderr, flush=True)


def versions(peer: Path) -> dict[str, str]:
    """Of what was measured."""
    names = ("torch", "torchvision", "pillow", "simplejpeg", "open_clip_torch", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    [peers] = importlib.metadata.distributions(name="webdataset", path=[str(peer)])
    return {**found, "webdataset of open_clip": peers.version}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path, nargs="+", help="folders of JPEGs")
    parser.add_argument("--peer", type=Path, required=True, help="folder with webdataset 0.2.86")
    parser.add_argument("--work", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=15.0, help="of each rate")
    parser.add_argument("--step-batches", type=int, default=8, help="batches timed step by step")
    parser.add_argument("--large-batches", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--step-seconds", type=float, default=1.5, help="other work per large step")
    parser.add_argument("--output", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions(options.peer),
        "batch_size": options.batch_size,
        "sets": {name: measure_set(name, options) for name in options.sets},
    }
    if "planning" in options.parts:
        report["planning"] = measure_planning()
    text = json.dumps(report, indent=2)
    if options.output:
        options.output.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
