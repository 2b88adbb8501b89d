"""Write the curve of metrics between two models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from clipkit.atomic_files import write_json, write_text
from clipkit.evaluation.interpolation import InterpolationPoint
from clipkit.evaluation.report.content import Chart, Series
from clipkit.evaluation.report.sections.charts import chart_svg


def write_curve(
    points: Sequence[InterpolationPoint], folder: Path | str, details: Mapping[str, Any]
) -> None:
    """Write ``curve.json`` and ``curve.svg``.

    Args:
        points: Points of ``interpolation_curve``.
        folder: Folder for both files.
        details: Further entries of the JSON file, such as the names of the models.

    Examples:
        >>> points = [InterpolationPoint(alpha, {"val/top1": 0.5}) for alpha in (0.0, 1.0)]
        >>> write_curve(points, "curve", {"start": "base", "end": "tuned"})
        >>> sorted(path.name for path in Path("curve").iterdir())
        ['curve.json', 'curve.svg']
    """
    folder = Path(folder)
    write_json(folder / "curve.json", {**details, "curve": [asdict(point) for point in points]})
    series = [
        Series(name, [(point.alpha, point.metrics[name]) for point in points])
        for name in points[0].drawn()
    ]
    chart = Chart("Between start (0) and end (1)", series, is_share=True, note="%")
    write_text(folder / "curve.svg", chart_svg(chart, "alpha"))
