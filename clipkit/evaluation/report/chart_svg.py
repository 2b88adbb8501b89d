"""A chart as one SVG file, for pages and slides; the report's own charts live inside its page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from clipkit.errors import DataError
from clipkit.evaluation.report.data import MAX_SERIES, Chart, Series
from clipkit.evaluation.report.markup import Attributes, Markup, tag
from clipkit.evaluation.report.numbers import compact, nice_ticks, percent

COLOURS: Final = ("#265fbd", "#c2571a", "#1d7f5f", "#8a3f9e", "#a8861b", "#5b6770")
_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 24, 48, 56
_LEGEND_LINE = 20


def chart_svg(chart: Chart, x_title: str) -> str:
    """Lines with marks, both axes with figures, and a legend.

    Args:
        chart: At most ``MAX_SERIES`` lines.
        x_title: What the horizontal axis is.

    Returns:
        A whole SVG document without scripts or links.

    Raises:
        DataError: If there is no point, or there are more lines than colours.

    Examples:
        >>> chart_svg(Chart("Accuracy", [Series("top1", [(0, 0.5), (1, 0.9)])]), "alpha")[:4]
        '<svg'
    """
    lines = [line for line in chart.series if line.points]
    if not lines or len(lines) > MAX_SERIES:
        raise DataError(f"{chart.title}: expected 1 to {MAX_SERIES} lines, got {len(lines)}")
    plane = _Plane(lines, _HEIGHT - _BOTTOM - _LEGEND_LINE * len(lines))
    note = f" ({chart.note})" if chart.note else ""
    parts = [_text(_LEFT, 24, f"{chart.title}{note}", weight="bold")]
    for value in plane.y_ticks:
        y = plane.y(value)
        label = percent(value, 0) if chart.is_share else compact(value)
        parts.append(_stroke(_LEFT, y, _WIDTH - _RIGHT, y))
        parts.append(_text(_LEFT - 8, y + 4, label, "end"))
    for value in plane.x_ticks:
        parts.append(_text(plane.x(value), plane.bottom + 20, compact(value), "middle"))
    parts.append(_text((_LEFT + _WIDTH - _RIGHT) / 2, plane.bottom + 40, x_title, "middle"))
    for number, line in enumerate(lines):
        parts += _drawn(plane, line, COLOURS[number])
        y = plane.bottom + 60 + _LEGEND_LINE * number
        parts.append(tag("circle", {"cx": _LEFT, "cy": y - 4, "r": 5, "fill": COLOURS[number]}))
        parts.append(_text(_LEFT + 14, y, line.name))
    return tag(
        "svg",
        {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 0 {_WIDTH} {_HEIGHT}",
         "role": "img", "aria-label": chart.title, "font-family": "sans-serif", "font-size": 13},
        tag("rect", {"width": _WIDTH, "height": _HEIGHT, "fill": "#ffffff"}),
        *parts,
    )  # fmt: skip


class _Plane:
    """Maps values to pixels."""

    def __init__(self, lines: Sequence[Series], bottom: float) -> None:
        steps = [float(step) for line in lines for step, _ in line.points]
        values = [float(value) for line in lines for _, value in line.points]
        self.x_ticks, self.y_ticks = _ticks(steps), _ticks(values)
        self.bottom = bottom

    def x(self, value: float) -> float:
        first, last = self.x_ticks[0], self.x_ticks[-1]
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (value - first) / (last - first)

    def y(self, value: float) -> float:
        first, last = self.y_ticks[0], self.y_ticks[-1]
        return self.bottom - (self.bottom - _TOP) * (value - first) / (last - first)


def _ticks(values: Sequence[float]) -> list[float]:
    return nice_ticks(min(values), max(values))


def _drawn(plane: _Plane, line: Series, colour: str) -> list[Markup]:
    places = [(plane.x(step), plane.y(value)) for step, value in line.points]
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    marks = [
        tag("circle", {"cx": f"{x:.1f}", "cy": f"{y:.1f}", "r": 3, "fill": colour})
        for x, y in places
    ]
    look: Attributes = {"points": points, "fill": "none", "stroke": colour, "stroke-width": 2}
    return [tag("polyline", look), *marks]


def _stroke(x1: float, y1: float, x2: float, y2: float) -> Markup:
    places = {"x1": f"{x1:.1f}", "y1": f"{y1:.1f}", "x2": f"{x2:.1f}", "y2": f"{y2:.1f}"}
    return tag("line", {**places, "stroke": "#d5d9de", "stroke-width": "1"})


def _text(x: float, y: float, text: str, anchor: str = "start", weight: str = "normal") -> Markup:
    place = {"x": f"{x:.1f}", "y": f"{y:.1f}", "text-anchor": anchor}
    return tag("text", {**place, "fill": "#191c21", "font-weight": weight}, text)
