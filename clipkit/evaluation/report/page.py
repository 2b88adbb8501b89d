"""Render the report, and write it atomically."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipkit.atomic_files import write_text
from clipkit.errors import DataError
from clipkit.evaluation.report.content import Classifier, Examples, ReportData
from clipkit.evaluation.report.rendering import render
from clipkit.evaluation.report.sections.charts import line_plot, similarity_plot
from clipkit.evaluation.report.sections.classes import class_table
from clipkit.evaluation.report.sections.confusion import heat_map
from clipkit.evaluation.report.sections.recall import rank_table, recall_plot
from clipkit.evaluation.report.sections.reliability import confidence_plot, reliability_plot
from clipkit.evaluation.report.sections.reranking import reranking_table
from clipkit.evaluation.report.sections.results import headlines, listings, tables
from clipkit.evaluation.report.sections.space import cloud_plot, place_map


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
    context = {
        "report": data,
        "headlines": headlines(data.results),
        "tables": tables(data.results),
        "listings": listings(data.results),
        "plots": [line_plot(chart) for chart in data.charts],
        "gallery": examples.gallery,
        "errors": examples.errors,
        "explanations": examples.explanations,
        "matches": examples.matches,
        "modalities": [part for part in examples.modalities if part.queries],
        "run": data.run,
        **_recall(examples),
        **_reranking(examples),
        **_classifiers(examples.classifiers),
        **_space(examples),
    }
    return render("report.html", context)


def _recall(examples: Examples) -> dict[str, object]:
    curves = examples.recalls
    return {
        "recall_plot": recall_plot(curves) if curves else None,
        "ranks": rank_table(curves) if curves else None,
    }


def _reranking(examples: Examples) -> dict[str, object]:
    content = examples.reranking
    values = None if content is None else reranking_table(content)
    return {"reranking": content, "reranked_values": values}


def _classifiers(classifiers: Sequence[Classifier]) -> dict[str, object]:
    return {
        "classifiers": classifiers,
        "classified": any(part.hits or part.errors for part in classifiers),
        "class_tables": [
            (part.name, class_table(part.classes)) for part in classifiers if part.classes
        ],
        "heat_maps": [
            (part.name, heat_map(part.confusion))
            for part in classifiers
            if part.confusion is not None and part.confusion.class_names
        ],
        "reliabilities": [
            (part.name, measured, reliability_plot(measured), confidence_plot(measured))
            for part in classifiers
            for measured in part.reliabilities
        ],
    }


def _space(examples: Examples) -> dict[str, object]:
    content, health = examples.map, examples.health
    place = place_map(content) if content else None
    return {
        "content": content,
        "place": place,
        "map_images": []
        if content is None or place is None
        else [
            list(image)
            for image in zip(
                content.captions, place.class_names, place.legend.colour_of, strict=True
            )
        ],
        "health": health,
        "similarity_plot": health.similarity and similarity_plot(health.similarity),
        "cloud_plot": health.clouds and cloud_plot(health.clouds),
    }
