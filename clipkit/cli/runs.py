"""``clipkit runs``: list runs, find the best one, compare them, draw their curves."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from clipkit.cli.arguments import add_command, given_path, given_text
from clipkit.cli.outputs import check_output_file
from clipkit.cli.printing import cell
from clipkit.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console

    from clipkit.runs import RunDifference, RunRecord

_STYLES: Final = {"running": "green", "failed": "red", "killed": "red", "finished": ""}
_FILE_WIDTH: Final = 200
_MAX_METRICS: Final = 2
_PAGE_RUNS: Final = 6  # one colour each


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "runs", "list runs, find the best, compare them, draw their curves",
        "Look at the runs below folders. Every 'clipkit fit' and 'clipkit finetune' writes "
        "run.json into its folder.",
    )  # fmt: skip
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, action, summary in (
        ("list", _list, "list runs with their state and metrics"),
        ("best", _best, "print the checkpoint of the run with the best value of a metric"),
        ("compare", _compare, "show options and metrics in which runs differ"),
        ("page", _page, "write a page of learning curves, which refreshes while runs are going"),
    ):
        sub = actions.add_parser(name, help=summary, description=summary, allow_abbrev=False)
        sub.set_defaults(action_of=action)
        _ARGUMENTS[name](sub)


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    _add_roots(parser)
    _add_filters(parser)
    parser.add_argument(
        "--metric",
        action="append",
        type=given_text,
        default=[],
        metavar="NAME",
        help="metric or option with a column; may be repeated",
    )


def _best_arguments(parser: argparse.ArgumentParser) -> None:
    _add_roots(parser)
    parser.add_argument(
        "--metric", type=given_text, required=True, metavar="NAME", help="such as val/loss"
    )
    parser.add_argument(
        "--mode",
        choices=("min", "max"),
        help="whether the smallest or greatest value is best; default: by the name (losses, ranks, "
        "errors and gaps: min)",
    )
    _add_where(parser)


def _compare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "runs", nargs="+", type=given_path, metavar="RUN", help="folders of two or more runs"
    )


def _page_arguments(parser: argparse.ArgumentParser) -> None:
    _add_roots(parser)
    _add_filters(parser)
    parser.add_argument(
        "--metric",
        action="append",
        type=given_text,
        default=[],
        metavar="NAME",
        help="metric with a chart; may be repeated; default: all",
    )
    parser.add_argument(
        "--last",
        type=int,
        default=_PAGE_RUNS,
        metavar="N",
        help=f"number of runs, the first in the order of the list (default: {_PAGE_RUNS})",
    )
    parser.add_argument(
        "--output", type=given_path, required=True, metavar="FILE.html", help="the page"
    )
    parser.add_argument(
        "--watch",
        type=float,
        metavar="SECONDS",
        help="write the page again in this interval, until no run is going",
    )


_ARGUMENTS: Final = {
    "list": _list_arguments,
    "best": _best_arguments,
    "compare": _compare_arguments,
    "page": _page_arguments,
}


def _add_roots(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "roots",
        nargs="*",
        type=given_path,
        default=[],
        metavar="DIR",
        help="folders that contain runs, at any depth; default: runs",
    )


def _add_where(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--where",
        action="append",
        type=given_text,
        default=[],
        metavar="NAME=VALUE",
        help="only runs with this value of an option, metric, or state, name, host, step, "
        "config_hash, data_fingerprint, mask_fingerprint; also <, <=, >, >=, !=; may be repeated",
    )


def _add_filters(parser: argparse.ArgumentParser) -> None:
    _add_where(parser)
    parser.add_argument(
        "--sort",
        type=given_text,
        metavar="NAME",
        help="metric (best first) or option; default: the newest first",
    )


def run(args: argparse.Namespace) -> int:
    status: int = args.action_of(args)
    return status


def _selected(args: argparse.Namespace) -> list[RunRecord]:
    from pathlib import Path

    from clipkit.runs import load_runs, parse_filter, select_runs

    filters = [parse_filter(text) for text in args.where]
    runs = load_runs(args.roots or [Path("runs")])
    return select_runs(runs, filters, getattr(args, "sort", None))


def _list(args: argparse.Namespace) -> int:
    from rich.table import Table

    from clipkit.runs.query import value_of

    runs = _selected(args)
    shown = args.metric or _frequent_metrics(runs, args.sort)
    table = Table()
    table.add_column("Run", overflow="fold", min_width=16)
    for title in ("State", "Started"):
        table.add_column(title, no_wrap=True)
    for title in ("Steps", *map(cell, shown)):
        table.add_column(title, justify="right", overflow="fold")
    for record in runs:
        style = _STYLES.get(record.state, "yellow")
        state = f"[{style}]{record.state}[/{style}]" if style else record.state
        values = (value_of(record, name) for name in shown)
        texts = (_text(value) if known else "–" for known, value in values)
        table.add_row(
            cell(str(record.folder)), state, _time(record.started), f"{record.step:,}",
            *map(cell, texts),
        )  # fmt: skip
    console = _console()
    console.print(table)
    for record in runs:
        if record.error:
            console.print(cell(f"{record.folder}: {record.error}"), soft_wrap=True)
    return 0


def _best(args: argparse.Namespace) -> int:
    from clipkit.runs import best_run

    smallest = None if args.mode is None else args.mode == "min"
    _, _, checkpoint = best_run(_selected(args), args.metric, smallest)
    print(checkpoint)
    return 0


def _compare(args: argparse.Namespace) -> int:
    from clipkit.runs import compare_runs, read_run
    from clipkit.runs.differences import short_names

    if len(args.runs) < 2:
        raise ConfigError("runs compare: expected at least two folders of runs, got one")
    runs = [read_run(folder).checked() for folder in args.runs]
    options, metrics = compare_runs(runs)
    console = _console()
    names = short_names(runs)
    for title, rows in (("Option", options), ("Metric", metrics)):
        console.print(_table(title, names, rows) if rows else f"{title}s: no difference")
    return 0


def _page(args: argparse.Namespace) -> int:
    check_output_file("--output", args.output)
    if args.watch is not None and args.watch < 1:
        raise ConfigError(f"--watch: expected at least 1 second, got {args.watch:g}")
    if args.last < 1:
        raise ConfigError(f"--last: expected at least 1, got {args.last}")

    from clipkit.runs import write_runs_page

    while True:
        runs = _selected(args)[: args.last]
        write_runs_page(args.output, runs, args.metric)
        going = any(record.state == "running" for record in runs)
        if args.watch is None or not going:
            break
        time.sleep(args.watch)
    print(f"{args.output}: {len(runs)} runs")
    return 0


def _frequent_metrics(runs: Sequence[RunRecord], sort: str | None) -> list[str]:
    """Return the metrics of the default columns: the one that sorts, then the monitored ones."""
    names = [sort] if sort is not None else []
    names += [record.best.metric for record in runs if record.best is not None]
    names += [name for record in runs for name in record.metrics if name.startswith("val")]
    names += [name for record in runs for name in record.metrics if name.endswith("loss")]
    return list(dict.fromkeys(names))[:_MAX_METRICS]


def _table(title: str, names: Sequence[str], rows: Sequence[RunDifference]) -> Any:
    from rich.table import Table

    table = Table()
    for name in (title, *names):
        table.add_column(cell(name), overflow="fold")
    for row in rows:
        table.add_row(cell(row.name), *map(cell, row.values))
    return table


def _console() -> Console:
    """Return a console; files and pipes get long lines, in which names are not broken."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=_FILE_WIDTH)


def _text(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)


def _time(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds)) if seconds else "–"
