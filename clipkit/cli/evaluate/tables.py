"""Tables of metrics on the terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from clipkit.cli.printing import cell

if TYPE_CHECKING:
    from rich.table import Table

    from clipkit.evaluation.comparison.intervals import Interval

_NO_SHARES: Final = ("l2", "_rank", "rsum", "seconds_per_query")
_PAIR: Final = re.compile(
    r"(translation/)?((?!text_to_image/|image_to_text/).+)_to_(.+)/recall_at_(\d+)"
)


def print_metrics(
    title: str,
    metrics: Mapping[str, float],
    intervals: Mapping[str, Interval],
    details: Mapping[str, float],
) -> None:
    """Print metrics with their intervals, and pairs of languages or modalities as a matrix."""
    from rich.console import Console

    console = Console()
    console.print(cell(title), soft_wrap=True)
    pairs = _pairs(metrics)
    shown = {name: value for name, value in metrics.items() if name not in pairs}
    for table in (metric_table(shown, intervals), *pair_tables(metrics)):
        console.print(table)
    for part in modality_parts(metrics, details):
        console.print(part)


def metric_table(metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> Table:
    """Return metrics, one per row, with their intervals if there are any."""
    from rich.table import Table

    table = Table()
    table.add_column("Metric", overflow="fold")
    table.add_column("Value", justify="right")
    if intervals:
        table.add_column("95 % interval", justify="right")
    for name, value in metrics.items():
        is_share = 0 <= value <= 1 and not name.endswith(_NO_SHARES)
        factor, digits = (100, ".2f") if is_share else (1, "g")
        ends = [f"{factor * end:{digits}}" for end in intervals.get(name, ())]
        shown = f"{factor * value:{digits}}" + " %" * is_share
        table.add_row(cell(name), shown, *([" to ".join(ends)] if intervals else []))
    return table


def pair_tables(metrics: Mapping[str, float]) -> Iterator[Table]:
    """Yield a matrix of the recall of captions in one language by those in another."""
    from rich.table import Table

    pairs = _pairs(metrics)
    if not pairs:
        return
    smallest = min((match[4] for match in pairs.values()), key=int)
    values = {(m[2], m[3]): metrics[name] for name, m in pairs.items() if m[4] == smallest}
    languages = sorted({language for pair in values for language in pair})
    table = Table(title=f"Translation, recall at {smallest}, percent", title_justify="left")
    table.add_column("From, to")
    for target in languages:
        table.add_column(cell(target), justify="right")
    for source in languages:
        cells = [values.get((source, target)) for target in languages]
        shown = ["" if value is None else f"{100 * value:.1f}" for value in cells]
        table.add_row(cell(source), *shown)
    yield table


def modality_parts(
    metrics: Mapping[str, float], details: Mapping[str, float]
) -> Iterator[Table | str]:
    """Yield a matrix of each measure of all pairs of modalities, and the numbers of samples."""
    from rich.table import Table

    from clipkit.evaluation.modality_tables import compared_pairs, modality_names, modality_tables

    pairs = compared_pairs(metrics, details)
    names = modality_names(pairs)
    for measure, keys in modality_tables(metrics, pairs).items():
        is_share = measure.startswith("recall")
        title = measure.replace("_", " ").capitalize() + ", percent" * is_share
        table = Table(title=title, title_justify="left")
        table.add_column("Query, target")
        for target in names:
            table.add_column(cell(target), justify="right")
        for query in names:
            values = [keys.get(query, {}).get(target) for target in names]
            factor, digits = (100, ".1f") if is_share else (1, "g")
            shown = ["" if key is None else f"{factor * metrics[key]:{digits}}" for key in values]
            table.add_row(cell(query), *shown)
        yield table
    for pair in pairs:
        yield (
            f"{pair.first} and {pair.second}: {pair.num_samples} samples, "
            f"{pair.num_left_out} left out because they lack one of them"
        )


def _pairs(metrics: Mapping[str, float]) -> dict[str, re.Match[str]]:
    """Return the metrics of pairs of languages."""
    matches = {name: match for name in metrics if (match := _PAIR.fullmatch(name))}
    return {
        n: m for n, m in matches.items() if f"{m[1] or ''}worst_pair/recall_at_{m[4]}" in metrics
    }
