"""Charts as SVG without a library; labels are HTML, so that text keeps its size at any width."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Final

from clipkit.evaluation.report.data import MAX_SERIES, Chart, Series, SimilarityHistogram
from clipkit.evaluation.report.markup import Markup, join, tag
from clipkit.evaluation.report.numbers import compact, nice_ticks, percent

_MAX_POINTS: Final = 240
_VIEW: Final = 1000.0

Points = Sequence[tuple[float, float]]


def render_chart(chart: Chart) -> Markup:
    """A figure with title, legend and plot; the script adds a reading of values."""
    series = [Series(line.name, thin_out(line.points)) for line in chart.series if line.points]
    steps = [step for line in series for step, _ in line.points]
    values = [value for line in series for _, value in line.points]
    low, high = min(values), max(values)
    if low >= 0 and (chart.is_share or low < 0.4 * high):
        low = 0.0
    ticks = nice_ticks(low, high)
    frame = _Frame(min(steps), max(steps), ticks[0], ticks[-1])
    labels = [percent(tick, 0 if ticks[1] - ticks[0] >= 0.01 else 1) for tick in ticks]
    if not chart.is_share:
        labels = [compact(tick) for tick in ticks]
    return tag(
        "figure",
        {"class": "chart"},
        _caption(chart.title, chart.note, [line.name for line in series]),
        _plot(
            join([_line(frame, line, number) for number, line in enumerate(series)]),
            frame,
            list(zip(ticks, labels, strict=True)),
            [(step, compact(step)) for step in _inside(frame)],
            description=_describe(chart, series),
            payload={
                "share": chart.is_share,
                "frame": [frame.left, frame.right, frame.bottom, frame.top],
                "series": [[line.name, [list(p) for p in line.points]] for line in series],
            },
        ),
    )


def render_histogram(histogram: SimilarityHistogram) -> Markup:
    """Two filled outlines over the cosine similarity."""
    edges = [float(edge) for edge in histogram.edges]
    top = max(*histogram.matching, *histogram.other)
    frame = _Frame(edges[0], edges[-1], 0.0, top * 1.08)
    shapes = [
        _area(frame, edges, shares, number)
        for number, shares in enumerate((histogram.matching, histogram.other))
    ]
    names = ["belong together", "do not"]
    x_labels = [(edge, f"{edge:.1f}") for edge in _inside(frame)]
    means = [
        sum(s * (a + b) / 2 for s, a, b in zip(shares, edges[:-1], edges[1:], strict=True))
        for shares in (histogram.matching, histogram.other)
    ]
    return tag(
        "figure",
        {"class": "chart"},
        _caption("Similarity of pairs", "cosine", names),
        _plot(
            join(shapes),
            frame,
            [],
            x_labels,
            description=(
                f"Histogram of cosine similarity: pairs that belong together have a mean of "
                f"{means[0]:.2f}, all other pairs {means[1]:.2f}."
            ),
        ),
    )


def thin_out(points: Points, limit: int = _MAX_POINTS) -> list[tuple[float, float]]:
    """At most ``limit`` points: the first and the last as they are, means of neighbours between."""
    plain = [(float(step), float(value)) for step, value in points]
    if len(plain) <= limit:
        return plain
    inner = plain[1:-1]
    size = -(-len(inner) // (limit - 2))
    groups = [inner[start : start + size] for start in range(0, len(inner), size)]
    means = [(_mean([p[0] for p in group]), _mean([p[1] for p in group])) for group in groups]
    return [plain[0], *means, plain[-1]]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _inside(frame: _Frame) -> list[float]:
    ticks = nice_ticks(frame.left, frame.right)
    return [tick for tick in ticks if frame.left <= tick <= frame.right]


class _Frame:
    """Maps values to a plane of 1000 by 1000 units with its origin at the upper left."""

    def __init__(self, left: float, right: float, bottom: float, top: float) -> None:
        self.left, self.right = left, right if right > left else left + 1.0
        self.bottom, self.top = bottom, top

    def x(self, value: float) -> float:
        return _VIEW * (value - self.left) / (self.right - self.left)

    def y(self, value: float) -> float:
        return _VIEW * (self.top - value) / (self.top - self.bottom)


def _line(frame: _Frame, line: Series, number: int) -> Markup:
    places = " ".join(f"{frame.x(step):.1f},{frame.y(value):.1f}" for step, value in line.points)
    return tag("polyline", {"class": f"line s{number % MAX_SERIES}", "points": places})


def _area(frame: _Frame, edges: Sequence[float], shares: Sequence[float], number: int) -> Markup:
    corners = [(edges[0], 0.0)]
    for index, share in enumerate(shares):
        corners += [(edges[index], share), (edges[index + 1], share)]
    corners.append((edges[-1], 0.0))
    places = " ".join(f"{frame.x(x):.1f},{frame.y(y):.1f}" for x, y in corners)
    return tag("polygon", {"class": f"area s{number % MAX_SERIES}", "points": places})


def _caption(title: str, note: str, names: Sequence[str]) -> Markup:
    legend = [
        tag("li", None, tag("span", {"class": f"swatch s{number % MAX_SERIES}"}), name)
        for number, name in enumerate(names)
    ]
    return tag(
        "figcaption",
        None,
        tag("h3", None, title, " ", tag("small", None, note)),
        tag("ul", {"class": "legend"}, *legend) if len(names) > 1 else "",
    )


def _plot(
    shapes: Markup,
    frame: _Frame,
    y_labels: Sequence[tuple[float, str]],
    x_labels: Sequence[tuple[float, str]],
    *,
    description: str,
    payload: dict[str, object] | None = None,
) -> Markup:
    places = [(frame.y(value) / 10, text) for value, text in y_labels]
    grid = [
        tag("line", {"x1": 0, "x2": _VIEW, "y1": f"{10 * top:.1f}", "y2": f"{10 * top:.1f}"})
        for top, _ in places
    ]
    drawing = tag(
        "svg",
        {"viewBox": "0 0 1000 1000", "preserveAspectRatio": "none", "role": "img",
         "aria-label": description},
        tag("g", {"class": "grid"}, *grid),
        shapes,
    )  # fmt: skip
    labels = [
        tag("span", {"class": "y", "style": f"top:{top:.2f}%", "aria-hidden": "true"}, text)
        for top, text in places
    ]
    reading: dict[str, str | int | float | bool] = {"class": "plot"}
    if payload is not None:
        reading["data-chart"] = json.dumps(payload, separators=(",", ":"))
        reading |= {"tabindex": 0, "role": "group"}
        reading["aria-label"] = f"{description} Arrow keys read the values."
    axis = tag(
        "div",
        {"class": "x", "aria-hidden": "true"},
        *[
            tag("span", {"style": f"left:{frame.x(value) / 10:.2f}%"}, text)
            for value, text in x_labels
        ],
    )
    return join([tag("div", reading, drawing, *labels), axis])


def _describe(chart: Chart, series: Sequence[Series]) -> str:
    show = percent if chart.is_share else compact
    lines = [
        f"{line.name}: from {show(line.points[0][1])} at step {compact(line.points[0][0])} "
        f"to {show(line.points[-1][1])} at step {compact(line.points[-1][0])}"
        for line in series
    ]
    return f"{chart.title}. {'; '.join(lines)}."
