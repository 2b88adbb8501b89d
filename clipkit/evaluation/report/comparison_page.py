"""Page of a comparison: differences with intervals, tests, and the effect on each class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from clipkit.atomic_files import write_text
from clipkit.evaluation.comparison.content import Change, Comparison
from clipkit.evaluation.comparison.shown import change_text, p_value_text
from clipkit.evaluation.report.rendering import render

_CLASSES: Final = 40
"""Number of classes on the page, for each pair of models."""


@dataclass(frozen=True, slots=True)
class Row:
    """One change on the page."""

    name: str  # metric or class
    baseline: str  # value of the baseline
    model: str  # value of the model
    difference: str  # difference with its interval
    p_value: str  # p-value, corrected
    verdict: str  # "better", "worse" or "noise"
    bar: tuple[float, float, float] | None  # lower end, value, upper end in percent of the width


@dataclass(frozen=True, slots=True)
class Block:
    """A table of changes."""

    title: str  # what is compared
    baseline: str  # name of the model that is compared with
    model: str  # name of the other model; empty if rows name it
    rows: Sequence[Row]  # changes
    note: str = ""  # what the table leaves out


def write_comparison(path: Path | str, comparison: Comparison) -> Path:
    """Write the page of a comparison, which needs no other file and no network.

    Args:
        path: Path of the page; missing folders are created.
        comparison: What ``compare_records`` returns.

    Returns:
        The path of the page.

    Examples:
        >>> write_comparison("comparison.html", Comparison(()))
        PosixPath('comparison.html')
    """
    path = Path(path)
    write_text(path, render_comparison(comparison))
    return path


def render_comparison(comparison: Comparison) -> str:
    """Render the page as text."""
    pairs = comparison.pairs
    primary = [(f"{pair.model} on {pair.data}", pair.metrics[0]) for pair in pairs if pair.metrics]
    overview = []
    if len(pairs) > 1:
        title = "Primary metric of each data set"
        overview = [Block(title, pairs[0].baseline, "", _rows(primary))]
    metrics, classes = list[Block](), list[Block]()
    for pair in pairs:
        title = f"{pair.data}: {pair.num_units:,} images or queries in {pair.num_groups:,} groups"
        names = title, pair.baseline, pair.model
        metrics.append(Block(*names, _rows([(change.name, change) for change in pair.metrics])))
        if pair.classes:
            shown = pair.classes[:_CLASSES]
            rows = _rows([(f"{change.name} ({change.num_units:,})", change) for change in shown])
            hidden = len(pair.classes) - len(shown)
            note = f"{hidden:,} more classes are in the JSON." if hidden else ""
            classes.append(Block(*names, rows, note))
    verdicts = [change.verdict for _, change in primary]
    context = {
        "subtitle": _summary(verdicts, pairs[0].baseline if pairs else ""),
        "overview": overview, "metrics": metrics, "classes": classes,
        "left_out": comparison.left_out, "resampling": comparison.resampling,
    }  # fmt: skip
    return render("comparison.html", context)


def _summary(verdicts: Sequence[str], baseline: str) -> str:
    counts = {name: verdicts.count(name) for name in ("better", "worse", "noise")}
    texts = {"better": "better", "worse": "worse", "noise": "within the noise"}
    shown = ", ".join(f"{number} {texts[name]}" for name, number in counts.items() if number)
    return f"Primary metrics against {baseline}: {shown}." if shown else "Nothing was compared."


def _rows(changes: Sequence[tuple[str, Change]]) -> list[Row]:
    """Return rows; shares have one scale of the bars, each other metric has its own."""
    shares = [_extent(change) for _, change in changes if change.is_share]
    widest = max(shares, default=0.0)
    return [
        Row(
            name,
            change_text(change, change.baseline),
            change_text(change, change.model),
            change_text(change, change.difference, sign="+"),
            p_value_text(change.corrected_p_value),
            change.verdict,
            _bar(change, widest if change.is_share else _extent(change)),
        )
        for name, change in changes
    ]


def _extent(change: Change) -> float:
    ends = change.difference.interval or (change.difference.value,)
    return max((abs(end) for end in ends if math.isfinite(end)), default=0.0)


def _bar(change: Change, extent: float) -> tuple[float, float, float] | None:
    """Place the interval of a difference; zero is in the middle."""
    if change.difference.interval is None or extent == 0:
        return None
    low, high = change.difference.interval
    values = (low, change.difference.value, high)
    lower, middle, upper = (round(50 + 48 * value / extent, 2) for value in values)
    return lower, middle, upper
