"""The page of statistics of shards: numbers and histograms in one file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipkit.atomic_files import write_text
from clipkit.curation.overview.page_content import DataPage
from clipkit.data import ShardStats
from clipkit.evaluation.report.rendering import render
from clipkit.evaluation.report.sections.charts import bar_plot


def write_stats_page(
    path: Path | str, stats: ShardStats, summary: Mapping[str, Any], data: DataPage | None = None
) -> None:
    """Write the page of statistics of shards, one HTML file.

    Args:
        path: Path of the page.
        stats: Statistics of the shards.
        summary: Their summary.
        data: What the images and captions are; None without embeddings.

    Examples:
        >>> stats = collect_stats("data/train", OpenClipTokenizer(context_length=100))
        >>> write_stats_page("stats.html", stats, stats.summary())
        >>> Path("stats.html").is_file()
        True
    """
    charts = {
        "Image width, pixels": stats.widths,
        "Image height, pixels": stats.heights,
        "Caption length, tokens": stats.caption_lengths,
        "Class of labelled samples": list(stats.labels.elements()),
    }
    if stats.seconds:
        charts["Sound duration, milliseconds"] = [round(1000 * each) for each in stats.seconds]
    write_text(path, render_page(summary, charts, data))


def render_page(
    summary: Mapping[str, Any],
    charts: Mapping[str, Sequence[int]],
    data: DataPage | None = None,
) -> str:
    """Render the page as text."""
    context = {
        "data": data,
        "numbers": {name.replace("_", " "): _shown(value) for name, value in summary.items()},
        "plots": [bar_plot(title, values) for title, values in charts.items() if values],
        "without_values": [title for title, values in charts.items() if not values],
    }
    return render("shards.html", context)


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {_shown(item)}" for key, item in value.items()) or "none"
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
