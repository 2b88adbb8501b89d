"""Metrics of one result as a table: by group of queries, pair of languages or modalities."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from clipkit.evaluation.modality_tables import compared_pairs, modality_names, modality_tables
from clipkit.evaluation.report.content import Result
from clipkit.evaluation.report.numbers import compact, percent

DIRECTIONS: Final = (("text_to_image", "Text to image"), ("image_to_text", "Image to text"))
_GROUP: Final = re.compile(
    r"(text_to_image|image_to_text)/(?:group/(.+)|worst_group)/recall_at_(\d+)"
)
_PAIR: Final = re.compile(r"(.+?)_to_(.+)/recall_at_(\d+)")
_WORST: Final = "worst of them"


@dataclass(frozen=True, slots=True)
class Listing:
    """Metrics of one result, one or several per row."""

    title: str  # caption
    note: str  # note of the result
    columns: Sequence[str]  # headings of the values
    rows: Sequence[tuple[str, Sequence[tuple[str, str]]]]  # name; value and interval per column
    names: str = "Metric"  # heading of the names


def listing_of(
    result: Result, title: str, cells: Mapping[tuple[str, str], str], names: str
) -> Listing:
    """Arrange shares by row and column, in percent.

    Args:
        result: Metrics with their intervals.
        title: Caption after the name of the result.
        cells: Metric key by the names of its row and column.
        names: Heading of the names of rows.
    """
    rows, columns = (list(dict.fromkeys(cell[axis] for cell in cells)) for axis in (0, 1))
    return Listing(
        f"{result.name}: {title}",
        result.note,
        columns,
        [(row, [_shares(result, cells.get((row, c))) for c in columns]) for row in rows],
        names,
    )


def group_listings(result: Result) -> Iterator[Listing]:
    """Yield the recall of each group of queries, such as a language, and of the worst one."""
    titles = dict(DIRECTIONS)
    cells = {
        (match[2] or _WORST, f"{titles[match[1]]}, R@{match[3]}"): key
        for key in result.metrics
        if (match := _GROUP.fullmatch(key))
    }
    ordered = sorted(cells.items(), key=lambda cell: cell[0][0] == _WORST)
    if cells:
        yield listing_of(result, "recall by group, percent", dict(ordered), "Group")


def translation_listings(result: Result) -> Iterator[Listing]:
    """Yield the recall of each ordered pair of languages, one table for each k."""
    matches = [match for key in result.metrics if (match := _pair(key, result.metrics))]
    for k in sorted({match[3] for match in matches}, key=int):
        cells = {(match[1], match[2]): match[0] for match in matches if match[3] == k}
        names = sorted({name for cell in cells for name in cell})
        square = {(a, b): cells.get((a, b), "") for a in names for b in names}
        title = f"translation from row to column, R@{k}, percent"
        yield listing_of(result, title, square, "Language")


def modality_listings(result: Result) -> Iterator[Listing]:
    """Yield each measure of each ordered pair of modalities, and how many samples have both."""
    pairs = compared_pairs(result.metrics, result.details)
    names = modality_names(pairs)
    for measure, keys in modality_tables(result.metrics, pairs).items():
        if measure.startswith("recall"):
            square = {(a, b): keys.get(a, {}).get(b, "") for a in names for b in names}
            title = f"from query (row) to target (column), R@{measure[10:]}, percent"
            yield listing_of(result, title, square, "Query")
        else:
            rows = [
                (a, [metric_cell(result, keys.get(a, {}).get(b)) for b in names]) for a in names
            ]
            title = (
                f"{result.name}: from query (row) to target (column), {measure.replace('_', ' ')}"
            )
            yield Listing(title, result.note, names, rows, "Query")
    counts = [
        (f"{pair.first} and {pair.second}",
         [(f"{pair.num_samples:,}", ""), (f"{pair.num_left_out:,}", "")])
        for pair in pairs
    ]  # fmt: skip
    if counts:
        title = f"{result.name}: samples that have both, and that lack one"
        yield Listing(title, result.note, ["Both", "Left out"], counts, "Modalities")


def is_listed(key: str, result: Result) -> bool:
    """Return whether a metric is in one of these tables."""
    among = result.metrics
    of_modalities = modality_tables(among, compared_pairs(among, result.details)).values()
    return bool(_GROUP.fullmatch(key) or _pair(key, among)) or any(
        key in targets.values() for keys in of_modalities for targets in keys.values()
    )


def metric_cell(result: Result, key: str | None) -> tuple[str, str]:
    """Return a value and its interval as text; empty if there is none."""
    if key is None:
        return "", ""
    interval = result.intervals.get(key)
    limits = "" if interval is None else f"{compact(interval[0])}–{compact(interval[1])}"
    return compact(result.metrics[key]), limits


def _pair(key: str, among: Mapping[str, float]) -> re.Match[str] | None:
    match = _PAIR.fullmatch(key)
    is_pair = match is not None and f"worst_pair/recall_at_{match[3]}" in among
    return (
        match if is_pair and "text_to_image/" not in key and "image_to_text/" not in key else None
    )


def _shares(result: Result, key: str | None) -> tuple[str, str]:
    if not key:
        return "", ""
    interval = result.intervals.get(key)
    limits = "" if interval is None else f"{percent(interval[0])}–{percent(interval[1])}"
    return percent(result.metrics[key]), limits
