#!/usr/bin/env python
"""Evaluation: seconds, peak memory and the numbers themselves, each measured in its own process.

    python tools/bench_evaluation.py --output figures.json SUBCOMMAND

``SUBCOMMANDS`` lists the functions that add subcommands; each sets ``run``, a function of the
options that returns the figures. ``measure`` runs a process, and returns its seconds and memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MIB = 2**20
PACKAGES = ("clipkit", "torch", "open_clip_torch", "clip-benchmark", "numpy")


@dataclass(frozen=True)
class Measurement:
    """What a process took."""

    seconds: float
    peak_mib: float  # largest resident memory of the process, without its children
    output: str


def measure(words: Sequence[str], environment: Mapping[str, str] | None = None) -> Measurement:
    """Run a command, and measure it; its error ends the benchmark."""
    start = time.perf_counter()
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    )
    assert process.stdout is not None
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if status:
        raise SystemExit(f"{' '.join(words)}: failed with status {status}\n{output}")
    return Measurement(seconds, usage.ru_maxrss * 1024 / MIB, output)


def machine() -> dict[str, Any]:
    """The machine and the versions that figures depend on."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "cpu_count": os.cpu_count(),
        "threads": os.environ.get("OMP_NUM_THREADS", "default"),
        "python": platform.python_version(),
        "versions": versions,
        "date": time.strftime("%Y-%m-%d"),
    }


def start_up(_options: argparse.Namespace) -> dict[str, Any]:
    """What a process costs that imports the evaluators and does nothing."""
    return asdict(measure([sys.executable, "-c", "import clipkit.evaluation"]))


def add_start_up(subparsers: Any) -> None:
    subparsers.add_parser("start-up", help=start_up.__doc__).set_defaults(run=start_up)


def retrieval(options: argparse.Namespace) -> dict[str, Any]:
    """Recall against CLIP_benchmark's own function, each in a process of its own, in turn."""
    figures: dict[str, Any] = {}
    for images, captions in ((8192, 1), (5000, 5)):
        runs: dict[str, list[dict[str, Any]]] = {"clipkit": [], "clip_benchmark": []}
        for _ in range(options.repeats):
            for library, results in runs.items():
                words = ("--library", library, "--images", str(images), "--captions", str(captions))
                results.append(retrieval_worker(*words))
        difference = max(
            abs(value - runs["clip_benchmark"][0]["recalls"][name])
            for name, value in runs["clipkit"][0]["recalls"].items()
        )
        figures[f"{images} x {images * captions}"] = {**runs, "greatest_difference": difference}
    return figures


def retrieval_large(options: argparse.Namespace) -> dict[str, Any]:
    """100,000 images and 500,000 captions; of the work, 1 of ``--share`` parts."""
    return retrieval_worker(
        *("--images", "100000", "--captions", "5", "--share", str(options.share)),
        *("--device", options.device),
    )


def retrieval_worker(*words: str) -> dict[str, Any]:
    """The figures of ``retrieval_worker.py``."""
    script = Path(__file__).parent / "retrieval_worker.py"
    result: dict[str, Any] = json.loads(
        measure([sys.executable, str(script), *words]).output.splitlines()[-1]
    )
    return result


def add_retrieval(subparsers: Any) -> None:
    parser = subparsers.add_parser("retrieval", help=retrieval.__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.set_defaults(run=retrieval)
    parser = subparsers.add_parser("retrieval-large", help=retrieval_large.__doc__)
    parser.add_argument("--share", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.set_defaults(run=retrieval_large)


SUBCOMMANDS: tuple[Callable[[Any], None], ...] = (add_start_up, add_retrieval)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    subparsers = parser.add_subparsers(dest="subcommand", required=True)
    for add in SUBCOMMANDS:
        add(subparsers)
    options = parser.parse_args()
    figures = {"machine": machine(), options.subcommand: options.run(options)}
    text = json.dumps(figures, indent=2)
    print(text)
    if options.output is not None:
        options.output.write_text(f"{text}\n")


if __name__ == "__main__":
    main()
