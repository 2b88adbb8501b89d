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
import tempfile
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
    cpu_seconds: float  # of all its processes; hardly changes with other load on the machine
    peak_mib: float  # largest resident memory of any of its processes
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
    cpu_seconds = usage.ru_utime + usage.ru_stime
    return Measurement(seconds, cpu_seconds, usage.ru_maxrss * 1024 / MIB, output)


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


def suite(options: argparse.Namespace) -> dict[str, Any]:
    """Whole data sets by several models, against CLIP_benchmark on the same files."""
    names = [f"wds/{path.name.removeprefix('wds_')}" for path in options.data]
    root = options.data[0].parent
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        listed = "".join(f"  - {name}\n" for name in names)
        (folder / "suite.yaml").write_text(f"root: {root}/wds_{{name}}\ndatasets:\n{listed}")
        runs: dict[str, list[Measurement]] = {}
        for number in range(options.repeats):  # in turn, so that other load meets all of them
            one, two, peer = (folder / f"{name}{number}" for name in ("one", "two", "peer"))
            cache = ["--embedding-cache", str(folder / f"cache{number}")]
            again = folder / f"again{number}"
            for name, words, environment in (
                ("clipkit", _clipkit(options, folder, one), {}),
                ("clip_benchmark", _peer(options, names, peer), {"PYTHONPATH": options.peer_path}),
                ("clipkit, 2 ranks", _clipkit(options, folder, two, ranks=2), {}),
                ("clipkit, fills the cache", [*_clipkit(options, folder, again), *cache], {}),
                (
                    "clipkit, from the cache",
                    [*_clipkit(options, folder, folder / f"c{number}"), *cache],
                    {},
                ),
                ("clipkit, all complete", _clipkit(options, folder, one), {}),
            ):
                print(f"{name} ...", file=sys.stderr)
                runs.setdefault(name, []).append(measure(words, environment))
        ours, theirs = _metrics(one), _metrics(peer)
        others = (_metrics(two), _metrics(folder / f"c{number}"))
    return {
        "runs": {name: _summary(measurements) for name, measurements in runs.items()},
        "largest_difference": {
            "clip_benchmark": _difference(ours, theirs),
            "2 ranks": _difference(ours, others[0]),
            "from the cache": _difference(ours, others[1]),
        },
        "metrics": [{**ours[key], "result": key} for key in sorted(ours)],
    }


def _clipkit(options: argparse.Namespace, folder: Path, out: Path, ranks: int = 1) -> list[str]:
    launcher = ["-m", "torch.distributed.run", f"--nproc_per_node={ranks}"] if ranks > 1 else []
    words = [sys.executable, *launcher, "-m", "clipkit.cli.main", "evaluate", "--device", "cpu"]
    words += ["--suite", str(folder / "suite.yaml"), "--output", str(out)]
    words += ["--num-workers", str(options.workers), "--batch-size", str(options.batch_size)]
    return [*words, *(word for ours, _ in options.model for word in ("--model", ours))]


def _peer(options: argparse.Namespace, names: Sequence[str], out: Path) -> list[str]:
    out.mkdir()
    words = [sys.executable, "-m", "clip_benchmark.cli", "eval", "--no_amp", "--quiet"]
    words += ["--pretrained_model", *(theirs for _, theirs in options.model), "--dataset", *names]
    words += ["--dataset_root", f"{options.data[0].parent}/wds_{{dataset_cleaned}}"]
    words += ["--recall_k", "1", "5", "10", "--num_workers", str(options.workers)]
    words += ["--batch_size", str(options.batch_size)]
    # A name of its own for each model: the template of CLIP_benchmark has paths in it.
    return [*words, "--output", f"{out}/{{dataset}}_{{pretrained}}_{{task}}.json"]


def _metrics(folder: Path) -> dict[str, dict[str, float]]:
    """Return the metrics of each model, in the order of their names, on each data set."""
    records = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    full = sorted(
        {(r["model"], r["pretrained"]) for r in records}, key=lambda n: n[1].endswith(".pt")
    )
    return {
        f"model {full.index((r['model'], r['pretrained']))} on {r['dataset']}": r["metrics"]
        for r in records
    }


def _difference(ours: dict[str, dict[str, float]], theirs: dict[str, dict[str, float]]) -> float:
    if {k: set(v) for k, v in ours.items()} != {k: set(v) for k, v in theirs.items()}:
        raise SystemExit(f"other results or metrics: {ours} and {theirs}")
    return max(abs(ours[key][name] - theirs[key][name]) for key in ours for name in ours[key])


def _summary(measurements: Sequence[Measurement]) -> dict[str, list[float]]:
    names = ("seconds", "cpu_seconds", "peak_mib")
    return {name: [round(getattr(m, name), 1) for m in measurements] for name in names}


def add_suite(subparsers: Any) -> None:
    parser = subparsers.add_parser("suite", help=suite.__doc__)
    parser.add_argument(
        "--data", type=Path, action="append", required=True,
        help="folder wds_NAME in CLIP_benchmark's layout; all in the same folder",
    )  # fmt: skip
    parser.add_argument(
        "--model", nargs=2, action="append", required=True, metavar=("OURS", "THEIRS"),
        help="a model as clipkit and as CLIP_benchmark name it: NAME@FILE.pt NAME,FILE.pt",
    )  # fmt: skip
    parser.add_argument(
        "--peer-path", required=True,
        help="folder with webdataset 0.2 and numpy 2.2, for CLIP_benchmark (pip install --target)",
    )  # fmt: skip
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.set_defaults(run=suite)


SUBCOMMANDS: tuple[Callable[[Any], None], ...] = (add_start_up, add_retrieval, add_suite)


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
