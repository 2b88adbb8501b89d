"""``clipkit tune``: search hyperparameters of a run with Optuna."""

from __future__ import annotations

import argparse
import importlib.util
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from clipkit.cli.arguments import add_trust_argument, given_path
from clipkit.cli.outputs import check_output_folder
from clipkit.errors import ConfigError
from clipkit.remote_code import trust_remote_code

if TYPE_CHECKING:
    from clipkit.tuning import StudySettings, StudySummary

_PRUNERS: Final = ("median", "halving", "none")
_EXIT_TERMINATED: Final = 143
_SUMMARY: Final = "search the hyperparameters of a run"


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """List the subcommand; ``run`` parses its options, since most of them belong to ``fit``."""
    subparsers.add_parser("tune", help=_SUMMARY, add_help=False)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the options that ``fit`` does not have."""
    parser = argparse.ArgumentParser(
        prog="clipkit tune",
        usage="clipkit tune -c FILE [-c FILE ...] --space FILE --metric NAME --direction WAY "
        "--output DIR [--KEY VALUE ...]",
        description="Search the hyperparameters of a run. All other options are those of "
        "'clipkit fit' and describe the run; --space lists the varied options. Each trial is a run "
        "in a separate folder and process. The same command continues a study that was "
        "stopped.",
        epilog="DIR contains study.html, study.json, best.yaml, study.sqlite3 and trials/NNNN. "
        "Needs pip install 'clipkit[tune]'. Example: clipkit tune -c configs/model/vit_tiny.yaml "
        "-c configs/data/webdataset.yaml -c configs/trainer/cpu.yaml --space "
        "configs/tune/vit_tiny.yaml --metric val/loss --direction minimize --output runs/tune",
        allow_abbrev=False,
    )
    _add_study(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampler (default: 0)")
    add_trust_argument(parser)
    return parser


def _add_study(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--space",
        type=given_path,
        required=True,
        metavar="FILE",
        help="YAML: each option with {type: float or int, low, high, log, step} or "
        "{type: categorical, choices}",
    )
    add(
        "--metric",
        required=True,
        metavar="NAME",
        help="the logged metric to optimise, such as val/loss; the last value of a run counts",
    )
    add("--direction", required=True, choices=("minimize", "maximize"))
    add("--output", type=given_path, required=True, metavar="DIR")
    add(
        "--trials",
        type=int,
        default=20,
        metavar="N",
        help="complete and pruned trials of the study, including earlier ones (default: 20)",
    )
    add("--max-minutes", type=float, metavar="M", help="no trial starts after this time")
    add(
        "--pruner",
        default="median",
        choices=_PRUNERS,
        help="which trials end early: those worse than half of the others at the same step "
        "(median), all but a quarter at each rung (halving), or none",
    )


def run(words: Sequence[str]) -> int:
    """Run or continue a study; ``words`` follow ``clipkit tune``."""
    args, fit_words = build_parser().parse_known_args(list(words))
    if importlib.util.find_spec("optuna") is None:
        raise ConfigError("tune: the package optuna is missing; pip install 'clipkit[tune]'")
    check_output_folder("--output", args.output, ["study.html", "study.json", "best.yaml"])

    from clipkit.cli.fit.resolve import check_config
    from clipkit.tuning import tune

    with trust_remote_code(args.trust_remote_code), _sigterm_raises():
        tune(
            study_settings(args, fit_words),
            args.output,
            num_trials=args.trials,
            max_minutes=args.max_minutes,
            check=check_config,
            on_trial=lambda summary: print(trial_line(summary), flush=True),
        )
    print(f"{args.output}: see study.html; clipkit fit -c {args.output / 'best.yaml'}")
    return 0


def study_settings(args: argparse.Namespace, fit_words: Sequence[str]) -> StudySettings:
    """Read the space and resolve the configuration."""
    from clipkit.cli.fit.resolve import resolve_config
    from clipkit.tuning import StudySettings, read_space

    space = read_space(args.space)
    config = resolve_config(fit_words)
    return StudySettings(config, space, args.metric, args.direction, args.pruner, args.seed)


@contextmanager
def _sigterm_raises() -> Iterator[None]:
    """Leave by an exception on SIGTERM, so that the process of a trial is terminated too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda *_: sys.exit(_EXIT_TERMINATED))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def trial_line(summary: StudySummary) -> str:
    """Describe the last trial on one line."""
    last = [trial for trial in summary["trials"] if trial["state"] != "waiting"][-1]
    values = " ".join(f"{name}={_short(value)}" for name, value in last["values"].items())
    value = "" if last["value"] is None else f" {summary['metric']}={last['value']:.5g}"
    error = f" ({last['error']})" if last["error"] else ""
    best = "" if summary["best"] is None else f", best: {summary['best']}"
    return f"trial {last['number']}: {last['state']}{value}{error}{best}; {values}"


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
