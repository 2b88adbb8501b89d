"""``clipkit compare``: what changed between evaluations, and whether it is noise."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from clipkit.atomic_files import write_json
from clipkit.cli.arguments import add_command, given_path, given_text
from clipkit.cli.outputs import check_output_file, check_output_folder
from clipkit.cli.printing import cell

if TYPE_CHECKING:
    from clipkit.evaluation.comparison import Change, Comparison

_FILE_WIDTH: Final = 120
"""Columns of tables that are not shown on a terminal."""
_MAX_CLASSES: Final = 10
_STYLES: Final = {"better": "green", "worse": "red", "noise": "dim"}


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    parser = add_command(
        subparsers, run, "compare", "compare evaluations: what changed, and whether it is noise",
        "Compare records of 'clipkit evaluate --output' on the same images: differences with "
        "intervals, paired tests, and the effect on each class. The first model is the baseline.",
    )  # fmt: skip
    parser.add_argument(
        "records",
        nargs="+",
        type=given_path,
        metavar="FILE.json-or-DIR",
        help="a record with its outcomes next to it (FILE.outcomes.npz), or a folder with the "
        "results of a suite, for one or several models",
    )
    parser.add_argument(
        "--baseline",
        type=given_text,
        metavar="NAME",
        help="model that the others are compared with; default: the first one",
    )
    parser.add_argument(
        "--any-prompts",
        action="store_true",
        help="also compare models that were evaluated with different prompts",
    )
    parser.add_argument(
        "--replicates",
        type=int,
        default=1000,
        metavar="N",
        help="bootstrap samples and permutations; the smallest p-value of a permutation test is "
        "1 / (N + 1) (default: 1000)",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of both (default: 0)")
    parser.add_argument(
        "--output", type=given_path, metavar="FILE.json", help="file for the comparison"
    )
    parser.add_argument(
        "--report", type=given_path, metavar="DIR", help="folder for comparison.html"
    )


def run(args: argparse.Namespace) -> int:
    check_output_file("--output", args.output)
    check_output_folder("--report", args.report, ["comparison.html"])

    from clipkit.evaluation.comparison import Resampling, compare_records, comparison_json
    from clipkit.evaluation.report.comparison_page import write_comparison

    comparison = compare_records(
        args.records,
        baseline=args.baseline,
        any_prompts=args.any_prompts,
        resampling=Resampling(replicates=args.replicates, seed=args.seed),
    )
    _print(comparison)
    if args.output is not None:
        write_json(args.output, comparison_json(comparison))
    if args.report is not None:
        write_comparison(args.report / "comparison.html", comparison)
    return 0


def _print(comparison: Comparison) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console = Console(width=_FILE_WIDTH)
    if len(comparison.pairs) > 1:
        for letter, name in _letters(comparison).items():
            console.print(cell(f"{letter}: {name}"), soft_wrap=True)
        console.print(_overview(comparison))
    else:
        for pair in comparison.pairs:
            title = (
                f"{pair.model} against {pair.baseline} on {pair.data}: {pair.num_units:,} images "
                f"or queries in {pair.num_groups:,} groups"
            )
            console.print(cell(title), soft_wrap=True)
            console.print(_changes("Metric", pair.metrics))
            if pair.classes:
                shown = pair.classes[:_MAX_CLASSES]
                console.print(_changes("Class or group", shown))
                if len(pair.classes) > len(shown):
                    console.print(f"{len(pair.classes) - len(shown)} more classes: --output")
    confidence = f"{100 * comparison.resampling.confidence:g} %"
    console.print(
        f"In brackets: {confidence} interval of the change. p: paired test, corrected for the "
        f"number of tests.",
        soft_wrap=True,
    )
    for line in comparison.left_out:
        console.print(cell(line), soft_wrap=True)


def _changes(title: str, changes: tuple[Change, ...]) -> Any:
    table = _table((title,), ("Baseline", "Model"))
    for change in changes:
        table.add_row(cell(change.name), *_values(change), *_result(change))
    return table


def _overview(comparison: Comparison) -> Any:
    """Return the primary metric of every pair in one table."""
    pairs = comparison.pairs
    letters = {name: letter for letter, name in _letters(comparison).items()}
    several = len(letters) > 2
    columns = ("Data", "Metric", *(["Model"] if several else []))
    table = _table(columns, ("A", "Value" if several else "B"))
    for pair in pairs:
        if not pair.metrics:  # only those of compared groups
            continue
        change = pair.metrics[0]
        model = [letters[pair.model]] if several else []
        texts = map(cell, (pair.data, change.name, *model))
        table.add_row(*texts, *_values(change), *_result(change))
    return table


def _letters(comparison: Comparison) -> dict[str, str]:
    """Return a letter for each model, the baseline first: names are too long for columns."""
    pairs = comparison.pairs
    names = dict.fromkeys([pairs[0].baseline, *(pair.model for pair in pairs)])
    return {f"{chr(ord('A') + n % 26)}{n // 26 or ''}": name for n, name in enumerate(names)}


def _table(texts: Sequence[str], numbers: Sequence[str]) -> Any:
    from rich.table import Table

    table = Table()
    for text in texts:
        table.add_column(cell(text), overflow="fold")
    for text in numbers:
        table.add_column(cell(text), justify="right", overflow="fold")
    table.add_column("Change", justify="right", no_wrap=True)
    table.add_column("p", justify="right", no_wrap=True)
    table.add_column("Verdict")
    return table


def _values(change: Change) -> list[str]:
    """Return both values; their intervals are in the JSON and on the page."""
    from clipkit.evaluation.comparison import Estimate
    from clipkit.evaluation.comparison.shown import change_text

    values = (change.baseline.value, change.model.value)
    return [change_text(change, Estimate(value)) for value in values]


def _result(change: Change) -> tuple[str, str, str]:
    from clipkit.evaluation.comparison.shown import change_text, p_value_text

    difference = change_text(change, change.difference, sign="+")
    style = _STYLES[change.verdict]
    verdict = f"[{style}]{change.verdict}[/{style}]"
    return difference, p_value_text(change.corrected_p_value), verdict
