"""Page of a comparison: differences with intervals, tests, and the effect on each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clipkit.atomic_files import write_text
from clipkit.evaluation.comparison.content import Comparison
from clipkit.evaluation.report.rendering import render
from clipkit.evaluation.report.sections.comparison import (
    class_blocks,
    metric_blocks,
    overview,
    short_names,
    tiles,
)


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
    models = short_names([name for pair in pairs for name in (pair.baseline, pair.model)])
    names = short_names([pair.data for pair in pairs]) | models
    compared = list(dict.fromkeys(names[pair.model] for pair in pairs))
    baseline = names[pairs[0].baseline] if pairs else ""
    title = f"{compared[0]} against {baseline}" if len(compared) == 1 else "Comparison"
    verdicts = [pair.metrics[0].verdict for pair in pairs if pair.metrics]
    context = {
        "title": title,
        "subtitle": _summary(verdicts, baseline),
        "tiles": tiles(pairs, names),
        "full_names": {short: name for name, short in names.items() if short != name},
        "overview": overview(pairs, names),
        "metrics": metric_blocks(pairs, names),
        "classes": class_blocks(pairs, names),
        "left_out": comparison.left_out,
        "resampling": comparison.resampling,
    }
    return render("comparison.html", context)


def _summary(verdicts: Sequence[str], baseline: str) -> str:
    counts = {name: verdicts.count(name) for name in ("better", "worse", "noise")}
    texts = {"better": "better", "worse": "worse", "noise": "within the noise"}
    shown = ", ".join(f"{number} {texts[name]}" for name, number in counts.items() if number)
    return f"Primary metrics against {baseline}: {shown}." if shown else "Nothing was compared."
