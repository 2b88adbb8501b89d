"""The picture of a study: its history, the trials across all options, and a table of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import write_text
from clipkit.evaluation.report import Chart, Series
from clipkit.evaluation.report.charts import render_chart
from clipkit.evaluation.report.markup import Markup, join, tag
from clipkit.evaluation.report.numbers import compact
from clipkit.evaluation.report.page import Section, render_document

_WIDTH: Final = 1000.0
_HEIGHT: Final = 360.0
_MARGIN: Final = 70.0
_STYLE: Final = """
.parallel { width: 100%; height: auto; overflow: visible; }
.parallel polyline { fill: none; stroke: currentColor; stroke-width: 1.5; opacity: .25; }
.parallel polyline.good { opacity: .6; }
.parallel polyline.best { stroke: #265fbd; stroke-width: 4; opacity: 1; }
.parallel line { stroke: currentColor; opacity: .4; }
.parallel text { fill: currentColor; font-size: 15px; text-anchor: middle; }
.trials td, .trials th { text-align: right; font-variant-numeric: tabular-nums; }
.trials tr.best { font-weight: 600; }
"""


def write_page(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the page of a study.

    Args:
        path: Where it goes.
        summary: What ``write_summary`` gave.
    """
    write_text(path, render_page(summary))


def render_page(summary: Mapping[str, Any]) -> str:
    """One HTML document that needs no other file and no network.

    Args:
        summary: What ``write_summary`` gave.
    """
    trials, metric = summary["trials"], summary["metric"]
    finished = [t for t in trials if t["state"] == "complete" and t["value"] is not None]
    sections = []
    if finished:
        sections = [
            Section("history", "History", "The value of each finished trial, and the best so far.",
                    _history(finished, summary)),
            Section("options", "Options", "Every finished trial is a line through its values. Blue "
                    "is the best; the better half is darker.", parallel(finished, summary)),
        ]  # fmt: skip
    sections.append(
        Section(
            "trials",
            "Trials",
            "Pruned trials ended early, without prospects.",
            _table(trials, summary),
        )
    )
    counts = {state: sum(t["state"] == state for t in trials)
              for state in ("complete", "pruned", "fail")}  # fmt: skip
    subtitle = (
        f"{summary['direction'].capitalize()} {metric}: {counts['complete']} trials finished, "
        f"{counts['pruned']} pruned, {counts['fail']} failed."
    )
    return render_document(f"Study of {metric}", subtitle, sections, style=_STYLE)


def best_so_far(values: Sequence[float], direction: str) -> list[float]:
    """The best value up to each place.

    Examples:
        >>> best_so_far([3.0, 1.0, 2.0], "minimize")
        [3.0, 1.0, 1.0]
    """
    choose = min if direction == "minimize" else max
    return [choose(values[: place + 1]) for place in range(len(values))]


def _history(finished: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Markup:
    numbers = [float(trial["number"]) for trial in finished]
    values = [float(trial["value"]) for trial in finished]
    best = best_so_far(values, summary["direction"])
    chart = Chart(
        summary["metric"],
        [
            Series("trial", list(zip(numbers, values, strict=True))),
            Series("best so far", list(zip(numbers, best, strict=True))),
        ],
        note="by number of the trial",
    )
    return tag("div", {"class": "charts"}, render_chart(chart))


def parallel(finished: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Markup:
    """Parallel axes: one for each option, the last one for the metric.

    Args:
        finished: Trials that gave a value.
        summary: What ``write_summary`` gave.
    """
    names = list(finished[0]["values"])
    columns = [[trial["values"][name] for trial in finished] for name in names]
    columns.append([trial["value"] for trial in finished])
    titles = [*(name.rpartition(".")[2] for name in names), summary["metric"]]
    gap = (_WIDTH - 2 * _MARGIN) / (len(columns) - 1)
    places = [heights(column) for column in columns]
    worst_first = sorted(
        range(len(finished)), key=lambda i: finished[i]["value"],
        reverse=summary["direction"] == "minimize",
    )  # fmt: skip
    lines = []
    for rank, index in enumerate(worst_first):
        points = " ".join(
            f"{_MARGIN + axis * gap:.1f},{_y(places[axis][index]):.1f}"
            for axis in range(len(columns))
        )
        is_best = rank == len(finished) - 1
        kind = "best" if is_best else "good" if 2 * rank >= len(finished) else "rest"
        lines.append(tag("polyline", {"class": kind, "points": points}))
    axes = [
        _axis(_MARGIN + axis * gap, titles[axis], columns[axis]) for axis in range(len(columns))
    ]
    label = f"Values of {', '.join(titles)} of {len(finished)} trials"
    view = {"class": "parallel", "viewBox": f"0 0 {_WIDTH:g} {_HEIGHT:g}", "role": "img",
            "aria-label": label}  # fmt: skip
    return tag("figure", {"class": "chart"}, tag("svg", view, *axes, *lines))


def heights(values: Sequence[Any]) -> list[float]:
    """Places on an axis, from 0 to 1: numbers by size, over several powers of ten by logarithm.

    Args:
        values: Numbers, or anything else, which is spread evenly.

    Examples:
        >>> heights([1e-4, 1e-2, 1e-3])
        [0.0, 1.0, 0.5]
    """
    if not all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values):
        kinds = sorted({str(value) for value in values})
        return [kinds.index(str(value)) / max(1, len(kinds) - 1) for value in values]
    numbers = [float(value) for value in values]
    if min(numbers) > 0 and max(numbers) / min(numbers) >= 20:
        numbers = [math.log10(number) for number in numbers]
    low, high = min(numbers), max(numbers)
    return [round((n - low) / (high - low), 6) if high > low else 0.5 for n in numbers]


def _y(height: float) -> float:
    return _HEIGHT - 40 - height * (_HEIGHT - 80)


def _axis(x: float, title: str, values: Sequence[Any]) -> Markup:
    ends = [values[i] for i in (_extreme(values, 0.0), _extreme(values, 1.0))]
    texts = [compact(float(v)) if isinstance(v, (int, float)) and not isinstance(v, bool)
             else str(v)[:24] for v in ends]  # fmt: skip
    return join([
        tag("line", {"x1": f"{x:.1f}", "x2": f"{x:.1f}", "y1": f"{_y(0):.1f}",
                     "y2": f"{_y(1):.1f}"}),
        tag("text", {"x": f"{x:.1f}", "y": 14}, title),
        tag("text", {"x": f"{x:.1f}", "y": f"{_y(1) - 8:.1f}"}, texts[1]),
        tag("text", {"x": f"{x:.1f}", "y": f"{_y(0) + 20:.1f}"}, texts[0]),
    ])  # fmt: skip


def _extreme(values: Sequence[Any], end: float) -> int:
    """The position of the value that lies nearest to an end of its axis."""
    places = heights(values)
    return min(range(len(values)), key=lambda index: abs(places[index] - end))


def _table(trials: Sequence[Mapping[str, Any]], summary: Mapping[str, Any]) -> Markup:
    names = list(dict.fromkeys(name for trial in trials for name in trial["values"]))
    heads = ["Trial", "State", summary["metric"], *names, "Seconds"]
    rows = [
        tag("tr", {"class": "best"} if trial["number"] == summary["best"] else None,
            tag("th", {"scope": "row"}, str(trial["number"])),
            tag("td", {"title": trial["error"] or ""}, trial["state"]),
            *[tag("td", None, _shown(value)) for value in
              (trial["value"], *(trial["values"].get(name) for name in names), trial["seconds"])])
        for trial in trials
    ]  # fmt: skip
    table = tag(
        "table", {"class": "plain trials"},
        tag("thead", None, tag("tr", None, *[_head(name) for name in heads])),
        tag("tbody", None, *rows),
    )  # fmt: skip
    return tag("div", {"class": "scroll", "tabindex": 0, "role": "region",
                       "aria-label": "Trials"}, table)  # fmt: skip


def _head(name: str) -> Markup:
    """A column's heading: the last part of an option's name, all of it on pointing at it."""
    return tag("th", {"scope": "col", "title": name}, name.rpartition(".")[2])


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return compact(float(value)) if is_number else str(value)
