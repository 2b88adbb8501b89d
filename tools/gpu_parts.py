"""The parts of `tools/gpu_check.sh`: the commands of each, at full size or small for a CPU."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TRAINED = "clipkit.training"
_OUTCOME = re.compile(r"^(?:\S*tests/)?(\S+::\S.*?) (PASSED|FAILED|ERROR|SKIPPED|XFAIL)\b")


def parse_json(line: str) -> dict[str, Any] | None:
    """Return the object of a line of JSON, None for any other line."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def parse_nothing(_: str) -> None:
    """Take no result from the output."""


def parse_test(line: str) -> dict[str, Any] | None:
    """Return name and outcome of a test from a line of pytest."""
    match = _OUTCOME.match(line)
    return {"test": match[1], "outcome": match[2].lower()} if match else None


@dataclass(frozen=True)
class Command:
    """A command of a part.

    Args:
        title: Name in the results.
        words: Program and arguments.
        environment: Further environment variables.
        paths: Folders in front of Python's path.
        parse: Makes a result of a line of output.
        after: Makes a result after the command has succeeded.
    """

    title: str
    words: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    paths: tuple[str, ...] = ()
    parse: Callable[[str], dict[str, Any] | None] = parse_json
    after: Callable[[], dict[str, Any]] | None = None


@dataclass(frozen=True)
class Plan:
    """Folder of the results, and sizes of everything.

    Args:
        out: Folder of the results.
        num_gpus: Devices of the part with several ranks.
        device: Where it runs.
        pairs: Sizes of batches of the losses.
        width: Components of their embeddings.
        models: Name and batch size of the steps.
        lengths: Tokens of the captions of the steps; others are measured with the first.
        runs: Model, batch size and steps of complete runs.
        photos: Number of JPEGs that they read.
    """

    out: Path
    num_gpus: int
    device: str = "cuda"
    pairs: tuple[int, ...] = (4_096, 16_384, 32_768, 65_536, 131_072)
    width: int = 512
    models: tuple[tuple[str, int], ...] = (("ViT-B-32", 1024), ("ViT-B-16", 512), ("ViT-L-14", 192))
    lengths: tuple[str, ...] = ("77", "32")
    runs: tuple[tuple[str, int, int], ...] = (("ViT-B-32", 512, 80), ("ViT-L-14", 128, 60))
    photos: int = 60_000

    @property
    def scratch(self) -> Path:
        """Folder of photos and checkpoints, which is removed at the end."""
        return self.out / "scratch"

    @classmethod
    def small(cls, out: Path) -> Plan:
        """Everything once, in seconds, on a CPU with two gloo ranks."""
        return cls(
            out, num_gpus=2, device="cpu", pairs=(64, 96), width=16, models=(("toy", 4),),
            lengths=("16", "8"), runs=(("toy", 8, 6),), photos=500,
        )  # fmt: skip


def tests(plan: Plan) -> Iterator[Command | str]:
    """The tests marked `gpu`."""
    words = [sys.executable, "-m", "pytest", "-v", "-rs", "-p", "no:cacheprovider", "-m", "gpu"]
    environment = {"CLIPKIT_GPU_TESTS_ON": plan.device, "COLUMNS": "250"}
    yield Command(
        "tests/gpu", [*words, "--timeout=240", "tests/gpu"], environment, parse=parse_test
    )


def syncs(plan: Plan) -> Iterator[Command | str]:
    """Steps of a fit, without and with a label loss."""
    words = [sys.executable, "tools/gpu_syncs.py", "--device", plan.device]
    yield Command("syncs", words)
    yield Command("syncs with labels", [*words, "--labels"])
    yield Command("syncs of the profiler", [*words, "--profiler"])


def loss(plan: Plan) -> Iterator[Command | str]:
    """Losses in every precision, and those of others."""
    sizes = [str(size) for size in plan.pairs]
    words = [sys.executable, "tools/bench_gpu_loss.py", "--device", plan.device]
    words += ["--width", str(plan.width), "--sizes", *sizes]
    yield Command("losses", words, paths=peer())


def steps(plan: Plan) -> Iterator[Command | str]:
    """One process per trainer and model, in turn."""
    for model, batch_size in plan.models:
        words = [sys.executable, "tools/bench_gpu_steps.py", "--device", plan.device]
        words += ["--model", model, "--batch-size", str(batch_size)]
        ours = [*words, "--runner", "clipkit", "--lengths", *plan.lengths]
        yield Command(f"{model} clipkit", ours)
        theirs = [*words, "--runner", "open_clip", "--lengths", plan.lengths[0]]
        yield Command(f"{model} open_clip", theirs, paths=peer())


def loader(plan: Plan) -> Iterator[Command | str]:
    """Complete runs of `clipkit fit` on one device, with the wait for data of each."""
    yield from photos(plan)
    for model, batch_size, num_steps in plan.runs:
        yield fit(plan, model, batch_size, num_steps)


def ranks(plan: Plan) -> Iterator[Command | str]:
    """All devices: losses of DDP and sharded weights against one process, then complete runs."""
    if plan.num_gpus < 2:
        yield "one GPU: nothing to run on several"
        return
    count = str(plan.num_gpus)
    words = ["tools/gpu_ranks.py", "--device", plan.device, "--world-size", count]
    words += ["--reference", str(plan.scratch / "reference.json")]
    yield Command("one rank", [sys.executable, *words, "--strategy", "auto"])
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    torchrun += ["--nproc_per_node", count]
    for strategy in ("ddp", "sharded"):
        yield Command(f"{count} ranks {strategy}", [*torchrun, *words, "--strategy", strategy])
    yield from photos(plan)
    model, batch_size, num_steps = plan.runs[0]
    for strategy in ("ddp", f"{TRAINED}.ShardedStrategy"):
        yield fit(plan, model, batch_size, num_steps, strategy)


PARTS: dict[str, Callable[[Plan], Iterator[Command | str]]] = {
    "tests": tests, "syncs": syncs, "loss": loss, "steps": steps, "loader": loader, "ranks": ranks,
}  # fmt: skip


def peer() -> tuple[str, ...]:
    """The folder of an open_clip checkout, which comes before the installed release."""
    return (os.environ["PEER"],) if os.environ.get("PEER") else ()


def photos(plan: Plan) -> Iterator[Command]:
    """Write the JPEGs, unless another part has."""
    if not (plan.scratch / "photos/complete").exists():
        words = [sys.executable, "tools/photo_shards.py", str(plan.scratch / "photos")]
        yield Command(
            "photos", [*words, "--photos", str(plan.photos)],
            after=lambda: mark(plan.scratch / "photos/complete"),
        )  # fmt: skip


def mark(path: Path) -> dict[str, Any]:
    """Say in a file that its folder is complete."""
    path.touch()
    return {"photos": len(list(path.parent.glob("*.tar"))), "unit": "shards of 500"}


def fit(plan: Plan, model: str, batch_size: int, num_steps: int, strategy: str = "auto") -> Command:
    """A run of `clipkit fit` from JPEGs to weights, on one device or on all."""
    is_small = plan.device == "cpu"
    devices = 1 if strategy == "auto" else plan.num_gpus
    name = f"{model}-{strategy.rpartition('.')[2]}"
    folder = plan.scratch / name
    workers = 1 if is_small else max(1, num_cores() // devices - 2)
    words = [sys.executable, "-m", "clipkit.cli.main", "fit", "-c", "configs/data/webdataset.yaml"]
    if is_small:
        words += ["-c", "configs/model/vit_tiny.yaml", "-c", "configs/trainer/cpu.yaml"]
        words += ["--trainer.max_time", "null"]
    else:
        words += ["-c", "configs/model/vit_b32.yaml", "-c", "configs/trainer/gpu.yaml"]
        words += ["--model.encoder.init_args.name", model]
        words += ["--trainer.callbacks+", f"{TRAINED}.callbacks.CompileTowers"]
    options = {
        "model.schedule.init_args.warmup": 2 if is_small else 10,
        "data.train": f"{plan.scratch}/photos/*.tar",
        "data.val": "null",
        "data.batch_size": batch_size,
        "data.num_workers": workers,
        "trainer.devices": devices,
        # the bare name of a class would be taken for a name of Lightning's own
        f"trainer.strategy{'.class_path' if '.' in strategy else ''}": strategy,
        "trainer.max_steps": num_steps,
        "trainer.max_epochs": -1,
        "trainer.log_every_n_steps": max(1, num_steps // 3),
        "trainer.default_root_dir": folder,
    }
    words += [f"--{option}={value}" for option, value in options.items()]
    about = {"run": name, "devices": devices, "batch_size": batch_size, "workers": workers}
    return Command(
        f"fit {name}", [*words, "--overwrite"], parse=parse_nothing,
        after=lambda: {**about, **waiting(folder / "metrics.csv", plan.out / f"{name}.csv")},
    )  # fmt: skip


def num_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def waiting(metrics: Path, kept: Path) -> dict[str, Any]:
    """Keep the log, and return medians of its throughput without the first interval."""
    shutil.copy(metrics, kept)
    with metrics.open() as file:
        rows = [row for row in csv.DictReader(file) if row["throughput/samples_per_second"]]
    values = {}
    for key in ("samples_per_second", "data_wait_share", "tflops_per_second", "mfu"):
        given = [row.get(f"throughput/{key}") for row in rows[1:] or rows]
        if numbers := [float(text) for text in given if text]:
            values[key] = round(statistics.median(numbers), 4)
    return values
