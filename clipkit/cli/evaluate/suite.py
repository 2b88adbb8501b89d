"""``clipkit evaluate --suite``: several data sets by several models."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from clipkit.cli.arguments import embed_options, given_path, given_text, versions
from clipkit.cli.outputs import check_output_folder
from clipkit.cli.printing import say
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from clipkit.evaluation import SuiteRun

_EXIT_FAILED: Final = 1
_WITH_SUITE: Final = {
    "model", "weights", "device", "trust_remote_code", "batch_size", "num_workers", "limit",
    "precision", "allow_outside", "suite", "data_root", "language", "embedding_cache", "output",
    "subcommand", "run", "default_of",
}  # fmt: skip
"""Options that a suite uses; its data sets specify what all others do."""
_ONLY_SUITE: Final = ("data_root", "language")
_SHOWN: Final = ("top1", "text_to_image/recall_at_1", "image_to_text/recall_at_1")


def add_suite_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of suites."""
    parser.set_defaults(default_of=parser.get_default)
    parser.add_argument(
        "--suite",
        type=given_text,
        metavar="FILE.yaml-or-NAME",
        help="measure each --model (which may be repeated) on all data sets of a suite: a YAML "
        "file, or clip_benchmark, compositionality, datacomp, multilingual, retrieval or "
        "robustness; results that are complete in --output, then a folder, are kept",
    )
    parser.add_argument(
        "--data-root",
        type=given_text,
        metavar="DIR-or-URL",
        help="where the data of --suite are, with {name} for the name of each, such as "
        "/data/wds_{name}; default: the suite's root",
    )
    parser.add_argument(
        "--language",
        action="append",
        default=[],
        metavar="CODE",
        help="measure only this language of --suite; may be repeated; default: all",
    )
    parser.add_argument(
        "--embedding-cache",
        type=given_path,
        metavar="DIR",
        help="folder that keeps embeddings, by hashes of model, data and options",
    )


def check_suite_arguments(args: argparse.Namespace) -> None:
    """Refuse options that do not fit together.

    Raises:
        ConfigError: If an option belongs to the other way of evaluating, or one is missing.
    """
    with_suite = args.suite is not None
    others = vars(args).keys() - _WITH_SUITE if with_suite else _ONLY_SUITE
    for name in sorted(others):
        if getattr(args, name) != args.default_of(name):
            option = f"--{name.replace('_', '-')}"
            where = "the data sets of --suite specify it" if with_suite else "it needs --suite"
            raise ConfigError(f"{option}: cannot be used here: {where}; omit it")
    if with_suite and args.output is None:
        raise ConfigError("--output: expected a folder for the results of --suite, got none")
    if not with_suite and args.data is None:
        raise ConfigError("--data: expected evaluation data, or --suite; got neither")
    if not with_suite and len(args.model) > 1:
        raise ConfigError(
            f"--model: expected one model, got {len(args.model)}; several models need --suite"
        )


def run_suite_command(args: argparse.Namespace, device: str) -> int:
    """Run a suite; the status is 1 if a measurement failed."""
    from clipkit.evaluation import SuiteOptions, read_suite, run_suite

    suite = read_suite(args.suite, args.data_root).in_languages(tuple(args.language))
    options = SuiteOptions(
        embed=embed_options(args),
        device=device,
        weights=args.weights,
        cache=args.embedding_cache,
        allow_outside=args.allow_outside,
        versions=versions(),
    )
    run = run_suite(suite, args.model, args.output, options, _print_result)
    _print_end(run, args)
    return _EXIT_FAILED if run.failures else 0


def check_suite_output(args: argparse.Namespace) -> None:
    """Check that the results of a suite can be written."""
    check_output_folder("--output", args.output)


def _print_result(title: str, result: Mapping[str, float] | str, num_left: int) -> None:
    if isinstance(result, str):
        say(f"{title}: failed: {result} ({num_left} to do)", flush=True)
        return
    shown = [name for name in _SHOWN if name in result] or list(result)[:1]
    values = ", ".join(f"{name} {100 * result[name]:.2f} %" for name in shown)
    say(f"{title}: {values} ({num_left} to do)", flush=True)


def _print_end(run: SuiteRun, args: argparse.Namespace) -> None:
    for name, reason in run.left_out.items():
        say(f"left out: {name}: {reason}")
    for failure in run.failures:
        say(f"failed: {failure}")
    kept = run.num_complete - run.num_measured
    print(
        f"{run.num_measured} results measured, {kept} kept, {len(run.failures)} failed: "
        f"{args.output}/results.csv"
    )
