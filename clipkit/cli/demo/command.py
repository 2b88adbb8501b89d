"""``clipkit demo``: pack emoji, pretrain on them, evaluate, and write a report."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any, Final

from clipkit.atomic_files import write_json
from clipkit.cli.arguments import add_command, given_path
from clipkit.cli.demo.files import DemoFiles
from clipkit.cli.outputs import check_output_folder
from clipkit.cli.progress import progress_bar
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.data.demo.emoji import DemoData

CONFIG: Final = "experiment/demo.yaml"
_MAX_MINUTES: Final = 24 * 60.0


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "demo",
        "pretrain on emoji in five minutes on a CPU, evaluate, and write a report",
        "Pack emoji drawn by two artists into shards, pretrain on them with "
        f"configs/{CONFIG}, evaluate on drawings that are not in the training data, and write "
        "metrics.json, last.ckpt and report.html. Needs pip install 'clipkit[demo]'.",
    )  # fmt: skip
    folder = "runs/demo"
    parser.add_argument(
        "--output", type=given_path, default=folder, metavar="DIR", help=f"default: {folder}"
    )
    parser.add_argument(
        "--minutes", type=float, default=5.0, metavar="M", help="duration of training (default: 5)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of weights, sample order and augmentation"
    )


def run(args: argparse.Namespace) -> int:
    if not 0 < args.minutes <= _MAX_MINUTES:
        raise ConfigError(f"--minutes: expected more than 0 and at most 1440, got {args.minutes}")
    files = DemoFiles(args.output)
    written = (files.checkpoint, files.history, files.metrics, files.report)
    check_output_folder("--output", args.output, [file.name for file in written])
    _check_folder(files)

    from clipkit.cli.demo.report import evaluate, print_table, run_figures, write_demo_report
    from clipkit.data.demo.emoji import pack_demo

    with progress_bar("Drawing and packing emoji") as advance:
        data = pack_demo(files.data, advance)
    seconds = _fit(files, data, args.minutes, args.seed)

    outcome = evaluate(files.checkpoint, data)
    figures = {**outcome.figures(), **run_figures(files.checkpoint, seconds)}
    write_json(files.metrics, figures)
    write_demo_report(files, outcome, figures)
    print_table(outcome, figures, files.report)
    return 0


def _check_folder(files: DemoFiles) -> None:
    """Allow and report the replacement of an earlier demo; refuse that of another run."""
    from clipkit.training.callbacks.run_folder import traces_of_a_run

    traces = traces_of_a_run(str(files.root))
    if traces and not files.overlay.is_file():
        raise ConfigError(
            f"--output: {files.root} contains a run that is no demo ({', '.join(traces)}); "
            f"choose another folder"
        )
    if traces:
        print(f"{files.root}: replacing the demo in this folder", flush=True)


def _fit(files: DemoFiles, data: DemoData, minutes: float, seed: int) -> float:
    """Train and return the duration in seconds."""
    import time

    from clipkit.cli.config_files import config_path
    from clipkit.cli.fit import command as fit

    write_json(files.overlay, _overlay(files, data, minutes))
    start = time.monotonic()
    configs = [f"--config={path}" for path in (config_path(CONFIG), files.overlay)]
    status = fit.run(["fit", *configs, f"--seed_everything={seed}", "--overwrite"])
    if status != 0 or not files.checkpoint.exists():
        raise ConfigError(f"fit: exit status {status}, without {files.checkpoint}")
    return time.monotonic() - start


def _overlay(files: DemoFiles, data: DemoData, minutes: float) -> dict[str, Any]:
    """Return the options of this run: paths, duration, recall during training."""
    retrieval = {
        "class_path": "clipkit.evaluation.Retrieval",
        "init_args": {"data": str(data.unseen_drawings)},
    }
    recalls = {
        "class_path": "clipkit.training.callbacks.ZeroShotEvaluation",
        "init_args": {"evaluators": {"unseen_drawings": retrieval}},
    }
    return {
        "data": {"train": data.train, "val": str(data.unseen_drawings / "test" / "0.tar")},
        "trainer": {
            "default_root_dir": str(files.root),
            "max_time": {"seconds": round(60 * minutes)},
            "callbacks+": [recalls],
        },
    }
