"""One page with the learning curves of several runs, side by side."""

from __future__ import annotations

import csv
import math
import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Final

from clipkit.atomic_files import write_text
from clipkit.evaluation.report.content import Chart, Series
from clipkit.evaluation.report.rendering import render
from clipkit.evaluation.report.sections.charts import line_plot
from clipkit.runs.differences import compare_runs, short_names
from clipkit.runs.query import value_of
from clipkit.runs.record import RunRecord

REFRESH_SECONDS: Final = 15
"""Time between two loads of the page while a run is going."""
_MAX_CHARTS: Final = 24
_MAX_OPTIONS: Final = 40
_MAX_ROWS: Final = 2000
"""Rows of a log that are drawn; of more, every n-th is read."""
_FIRST: Final = (r"recall_at_1$|top1$", r"recall_at_", r"^val", r"loss", r"(^|[/_-])lr")
"""Metrics whose charts come first."""

Points = list[tuple[float, float]]


def write_runs_page(
    path: Path | str, runs: Sequence[RunRecord], metrics: Sequence[str] = ()
) -> Path:
    """Write the page, which needs no other file and no network.

    The page loads itself again every few seconds while one of the runs is going; the content
    changes when it is written again.

    Args:
        path: Path of the page; missing folders are created.
        runs: Records of the runs, in the order of their lines.
        metrics: Metrics with a chart; empty for all that were logged more than once, up to 24.

    Returns:
        The path of the page.

    Examples:
        >>> write_runs_page("runs.html", [RunRecord(Path("first"), "finished")])
        PosixPath('runs.html')
    """
    path = Path(path)
    write_text(path, render_runs_page(runs, metrics))
    return path


def render_runs_page(runs: Sequence[RunRecord], metrics: Sequence[str] = ()) -> str:
    """Render the page as text; see ``write_runs_page``."""
    names = short_names(runs)
    curves = {name: read_curves(run.folder) for name, run in zip(names, runs, strict=True)}
    logged = dict.fromkeys(metric for of_run in curves.values() for metric in of_run)
    drawn = list(metrics) if metrics else sorted(logged, key=_place)
    charts = []
    for metric in drawn:
        series = [Series(n, of_run[metric]) for n, of_run in curves.items() if metric in of_run]
        if metrics or any(len(line.points) > 1 for line in series):
            charts += [Chart(metric, series)] if series else []
    options = [row for row in compare_runs(runs)[0] if row.name != "state"]
    going = sum(run.state == "running" for run in runs)
    context = {
        "subtitle": f"{len(runs)} runs, {going} of them running.",
        "refresh": REFRESH_SECONDS if going else 0,
        "names": names,
        "plots": [line_plot(chart) for chart in charts[:_MAX_CHARTS]],
        "num_left_out": max(0, len(charts) - _MAX_CHARTS),
        "rows": [(name, run, _columns(run, drawn)) for name, run in zip(names, runs, strict=True)],
        "metrics": _shown_metrics(runs, drawn),
        "options": options[:_MAX_OPTIONS],
        "created": datetime.now().astimezone(),
    }
    return render("runs.html", context)


def read_curves(folder: Path) -> dict[str, Points]:
    """Read the values of each metric from ``metrics.csv``; empty if there is none that can be read.

    A row that is being written is left out.
    """
    try:
        with (folder / "metrics.csv").open(newline="", encoding="utf-8", errors="replace") as file:
            rows = list(csv.DictReader(file))
    except (OSError, csv.Error):
        return {}
    curves: dict[str, Points] = {}
    for row in rows:
        step = _number(row.get("step"))
        for name, text in row.items() if step is not None else ():
            value = _number(text) if name not in (None, "step", "epoch") else None
            if step is not None and value is not None:
                curves.setdefault(name, []).append((step, value))
    return {name: _every_nth(sorted(points)) for name, points in curves.items()}


def _place(metric: str) -> int:
    """Return the place of a metric's chart among the others."""
    matches = (n for n, pattern in enumerate(_FIRST) if re.search(pattern, metric))
    return next(matches, len(_FIRST))


def _shown_metrics(runs: Sequence[RunRecord], drawn: Sequence[str]) -> list[str]:
    """Return the metrics of the table: the first that were drawn and that a run has."""
    return [metric for metric in drawn if any(metric in run.metrics for run in runs)][:4]


def _columns(run: RunRecord, metrics: Sequence[str]) -> dict[str, str]:
    values = {name: value_of(run, name) for name in metrics}
    return {name: f"{value:.4g}" for name, (known, value) in values.items() if known}


def _every_nth(points: Points) -> Points:
    step = -(-len(points) // _MAX_ROWS)
    return points if step <= 1 else [*points[:-1:step], points[-1]]


def _number(text: object) -> float | None:
    try:
        value = float(text) if isinstance(text, str) and text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None
