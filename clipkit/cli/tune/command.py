"""``clipkit tune``: search hyperparameters of a run with Optuna.

This file is imported by ``clipkit --help`` and stays free of torch; the work is in ``tune_study``.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from clipkit.cli.arguments import given_path
from clipkit.cli.outputs import check_output_folder
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.tuning.study import Settings

_PRUNERS: Final = ("median", "halving", "none")
_LOCK_SECONDS: Final = 10
"""A killed process holds its lock until its memory has been given back."""
_EXIT_TERMINATED: Final = 143
_SUMMARY: Final = "search the hyperparameters of a run"


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """List the subcommand; ``run`` parses its options, because most are those of ``fit``."""
    subparsers.add_parser("tune", help=_SUMMARY, add_help=False)


def build_parser() -> argparse.ArgumentParser:
    """The options that ``tune`` has besides those of ``fit``."""
    parser = argparse.ArgumentParser(
        prog="clipkit tune",
        usage="clipkit tune -c FILE [-c FILE ...] --space FILE --metric NAME --direction WAY "
        "--output DIR [--KEY VALUE ...]",
        description="Search the hyperparameters of a run. All other options are those of "
        "'clipkit fit' and say what is run; --space says what is varied. Each trial is a run in a "
        "folder and a process of its own. Stopped or killed? The same command goes on.",
        epilog="DIR holds study.html, study.json, best.yaml, study.sqlite3 and trials/NNNN. Needs "
        "pip install 'clipkit[tune]'. Example: clipkit tune -c configs/model/vit_tiny.yaml "
        "-c configs/data/webdataset.yaml -c configs/trainer/cpu.yaml --space "
        "configs/tune/vit_tiny.yaml --metric val/loss --direction minimize --output runs/tune",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add(
        "--space",
        type=given_path,
        required=True,
        metavar="FILE",
        help="YAML: each option with {type: float, low, high, log, step}, int likewise, or "
        "{type: categorical, choices}",
    )
    add(
        "--metric",
        required=True,
        metavar="NAME",
        help="the logged metric that decides, such as val/loss; the last value of a run counts",
    )
    add("--direction", required=True, choices=("minimize", "maximize"))
    add("--output", type=given_path, required=True, metavar="DIR")
    add(
        "--trials",
        type=int,
        default=20,
        metavar="N",
        help="runs of the whole study, pruned ones counted (default: 20)",
    )
    add("--max-minutes", type=float, metavar="M", help="no trial begins after this time")
    add(
        "--pruner",
        default="median",
        choices=_PRUNERS,
        help="which trials end early: those worse than half of the others at that step (median), "
        "all but a quarter at each rung (halving), or none",
    )
    add("--seed", type=int, default=0, help="of the choice of values (default: 0)")
    return parser


def run(words: Sequence[str]) -> int:
    """Run or go on with a study.

    Args:
        words: The options after ``clipkit tune``.

    Returns:
        The exit status.

    Raises:
        ConfigError: If the options, the space or the configuration cannot work.
    """
    args, fit_words = build_parser().parse_known_args(list(words))
    if args.trials < 1:
        raise ConfigError(f"--trials: expected at least 1, got {args.trials}")
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("tune: the package optuna is missing; pip install 'clipkit[tune]'")
    from filelock import FileLock, Timeout

    check_output_folder("--output", args.output, ["study.html", "study.json", "best.yaml"])
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(args.output / ".lock", timeout=_LOCK_SECONDS):
            _search(args, resolve(args, fit_words))
    except Timeout as error:
        raise ConfigError(f"--output: another process works on {args.output}; wait, or give "
                          f"another folder") from error  # fmt: skip
    return 0


def resolve(args: argparse.Namespace, fit_words: Sequence[str]) -> Settings:
    """Read the space, resolve the configuration, and check one against the other.

    Args:
        args: What ``build_parser`` declares.
        fit_words: Options of ``clipkit fit``.

    Raises:
        ConfigError: If the configuration is wrong, or a name or value of the space does not fit it.
    """
    import yaml

    from clipkit.tuning.space import option_path, read_space, with_values
    from clipkit.tuning.study import Settings

    space = read_space(args.space)
    config = print_config(list(fit_words))
    paths = {name: option_path(name, config, str(args.space)) for name in space}
    path = args.output / ".check.yaml"
    for name, dimension in space.items():
        for value in dimension.ends():
            changed = with_values(config, {paths[name]: value})
            path.write_text(yaml.safe_dump(changed), encoding="utf-8")
            try:
                print_config(["-c", str(path)])
            except ConfigError as error:
                raise ConfigError(f"{args.space}: {name}: {value!r}: {error}") from error
            finally:
                path.unlink()
    return Settings(config, space, args.metric, args.direction, args.pruner, args.seed)


def print_config(words: list[str]) -> dict[str, Any]:
    """What ``clipkit fit --print_config`` prints, as plain types.

    Args:
        words: Options of ``clipkit fit``.

    Raises:
        ConfigError: If they are wrong.
    """
    import yaml

    from clipkit.cli.fit.trainer_cli import run_trainer

    with redirect_stdout(io.StringIO()) as text:
        run_trainer("fit", [*words, "--print_config"])
    config: dict[str, Any] = yaml.safe_load(text.getvalue())
    return config


def launch(config: Path) -> int:
    """Run a trial in a process of its own, with its output in ``log.txt`` beside its configuration.

    Args:
        config: The whole configuration of the trial.

    Returns:
        The exit status, negative where a signal killed the process.
    """
    command = [sys.executable, "-m", "clipkit.cli.main", "fit", "-c", str(config)]
    with (config.parent / "log.txt").open("w", encoding="utf-8") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
        try:
            return process.wait()
        except BaseException:
            process.terminate()
            process.wait()
            raise


def _search(args: argparse.Namespace, settings: Settings) -> None:
    from clipkit.tuning.page import write_page
    from clipkit.tuning.study import open_study, run_trials, write_best, write_summary

    study = open_study(args.output, settings)

    def after_each(study: Any) -> None:
        summary = write_summary(study, args.output, settings)
        write_page(args.output / "study.html", summary)
        if summary["best"] is not None:
            write_best(study, args.output, settings)
        print(describe(summary), flush=True)

    with _sigterm_ends_the_trial():
        run_trials(
            study,
            args.output,
            settings,
            launch,
            trials=args.trials,
            seconds=None if args.max_minutes is None else 60 * args.max_minutes,
            after_each=after_each,
        )
    print(f"{args.output}: see study.html; clipkit fit -c {args.output / 'best.yaml'}")


@contextmanager
def _sigterm_ends_the_trial() -> Iterator[None]:
    """Leave by an exception when a scheduler sends SIGTERM, so that ``launch`` ends its process."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(_EXIT_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def describe(summary: dict[str, Any]) -> str:
    """One line about the last trial that ran.

    Args:
        summary: What ``write_summary`` gave.
    """
    ran = [trial for trial in summary["trials"] if trial["state"] != "waiting"]
    last, best = ran[-1], summary["best"]
    values = " ".join(f"{name}={_short(value)}" for name, value in last["values"].items())
    value = "" if last["value"] is None else f" {summary['metric']}={last['value']:.5g}"
    error = f" ({last['error']})" if last["error"] else ""
    star = "" if best is None else f", best: {best}"
    return f"trial {last['number']}: {last['state']}{value}{error}{star}; {values}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
