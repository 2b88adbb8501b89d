"""Render the report, and write it atomically."""

from __future__ import annotations

from pathlib import Path

from clipkit.atomic_files import write_text
from clipkit.errors import DataError
from clipkit.evaluation.report.content import ReportData
from clipkit.evaluation.report.rendering import render
from clipkit.evaluation.report.sections.charts import line_plot, similarity_plot
from clipkit.evaluation.report.sections.confusion import heat_map
from clipkit.evaluation.report.sections.results import headlines, tables


def write_report(path: Path | str, data: ReportData) -> Path:
    """Write the report under a temporary name, then rename it.

    Args:
        path: Path of the page; missing folders are created.
        data: Content of the page.

    Returns:
        The path of the page.

    Raises:
        DataError: If the file cannot be written.
    """
    path = Path(path)
    page = render_report(data)
    try:
        write_text(path, page)
    except OSError as error:
        raise DataError(f"{path}: cannot write the report: {error.strerror}") from error
    return path


def render_report(data: ReportData) -> str:
    """Render the report as text.

    Args:
        data: Content of the page; empty parts are omitted.

    Returns:
        One HTML document that needs no other file and no network.
    """
    examples = data.examples
    confusion, similarity = examples.confusion, examples.health.similarity
    context = {
        "report": data,
        "headlines": headlines(data.results),
        "tables": tables(data.results),
        "plots": [line_plot(chart) for chart in data.charts],
        "gallery": examples.gallery,
        "heat_map": None if confusion is None else heat_map(confusion),
        "similarity_plot": None if similarity is None else similarity_plot(similarity),
        "measures": examples.health.measures,
        "run": data.run,
    }
    return render("report.html", context)
