"""Render the page of a study: its history, all trials across all options, and a table.

``optuna.visualization`` draws such charts with plotly, whose script would add 4.8 MB to the page.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import write_text
from clipkit.evaluation.report import Chart, Series
from clipkit.evaluation.report.numbers import compact
from clipkit.evaluation.report.rendering import render
from clipkit.evaluation.report.sections.charts import line_plot
from clipkit.evaluation.report.sections.plot import Plot

_MARGIN: Final = 70.0
_WIDTH: Final = 1000.0 - 2 * _MARGIN
_BOTTOM: Final = 320.0
_HEIGHT: Final = 280.0

Trials = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of the chart of all options."""

    x: float  # horizontal position
    title: str  # name of the option or metric
    top: str  # text of the value at the upper end
    bottom: str  # text of the value at the lower end
    heights: Sequence[float]  # place of each trial from 0 (bottom) to 1 (top)


def write_page(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the page of a study.

    Args:
        path: Path of the page.
        summary: Summary returned by ``write_summary``.
    """
    write_text(path, render_page(summary))


def render_page(summary: Mapping[str, Any]) -> str:
    """Render the page as text."""
    trials, metric, direction = summary["trials"], summary["metric"], summary["direction"]
    completed = [t for t in trials if t["state"] == "complete" and t["value"] is not None]
    worst_first = sorted(completed, key=lambda t: t["value"], reverse=direction == "minimize")
    names = list(dict.fromkeys(name for trial in trials for name in trial["values"]))
    axes = _axes(worst_first, metric)
    counts = [sum(t["state"] == state for t in trials) for state in ("complete", "pruned", "fail")]
    subtitle = "{} {}: {} trials completed, {} pruned, {} failed."
    context = {
        "metric": metric,
        "subtitle": subtitle.format(direction.capitalize(), metric, *counts),
        "best": summary["best"],
        "history": _history(completed, metric, direction) if completed else None,
        "axes": axes,
        "lines": [
            [(axis.x, _BOTTOM - _HEIGHT * axis.heights[row]) for axis in axes]
            for row in range(len(worst_first))
        ],
        "columns": ["Trial", "State", metric, *names, "Seconds"],
        "rows": [
            (t, [_shown(v) for v in (t["value"], *map(t["values"].get, names), t["seconds"])])
            for t in trials
        ],
    }
    return render("study.html", context)


def best_so_far(values: Sequence[float], direction: str) -> list[float]:
    """Return the best value up to each position."""
    return list(accumulate(values, min if direction == "minimize" else max))


def heights(values: Sequence[Any]) -> list[float]:
    """Place values on an axis, from 0 to 1.

    Examples:
        >>> heights([1e-4, 1e-2, 1e-3])
        [0.0, 1.0, 0.5]
    """
    if not all(_is_number(value) for value in values):
        kinds = sorted({str(value) for value in values})
        return [kinds.index(str(value)) / max(1, len(kinds) - 1) for value in values]
    numbers = [float(value) for value in values]
    if min(numbers) > 0 and max(numbers) / min(numbers) >= 20:
        numbers = [math.log10(number) for number in numbers]
    low, high = min(numbers), max(numbers)
    return [round((n - low) / (high - low), 6) if high > low else 0.5 for n in numbers]


def _history(completed: Trials, metric: str, direction: str) -> Plot:
    numbers = [float(trial["number"]) for trial in completed]
    values = [float(trial["value"]) for trial in completed]
    series = [
        Series("trial", list(zip(numbers, values, strict=True))),
        Series("best so far", list(zip(numbers, best_so_far(values, direction), strict=True))),
    ]
    return line_plot(Chart(metric, series, note="by trial number"))


def _axes(trials: Trials, metric: str) -> list[Axis]:
    """Return one axis for each option, and the last one for the metric."""
    if not trials:
        return []
    columns = [
        (name.rpartition(".")[2], [trial["values"][name] for trial in trials])
        for name in trials[0]["values"]
    ]
    columns.append((metric, [trial["value"] for trial in trials]))
    gap = _WIDTH / (len(columns) - 1)
    axes = []
    for number, (title, values) in enumerate(columns):
        places = heights(values)
        low, high = (_shown(values[places.index(end(places))])[:24] for end in (min, max))
        axes.append(Axis(_MARGIN + gap * number, title, high, low, places))
    return axes


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return compact(float(value)) if _is_number(value) else str(value)
