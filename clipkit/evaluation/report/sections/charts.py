"""Place the lines, areas and bars of charts; the templates draw them as SVG."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean
from typing import Final

from clipkit.errors import DataError
from clipkit.evaluation.report.content import MAX_SERIES, Chart, Series, SimilarityHistogram
from clipkit.evaluation.report.numbers import compact, grouped, nice_ticks, percent
from clipkit.evaluation.report.rendering import render
from clipkit.evaluation.report.sections.plot import Frame, Plot, Points, Shape, Values

_MAX_POINTS: Final = 240
_NUM_BINS: Final = 24
_REFERENCE: Final = 5  # grey
_MAX_ROWS: Final = 12


def line_plot(chart: Chart, *, from_zero: bool = True) -> Plot:
    """Place the lines of a chart."""
    series = [replace(line, points=thin_out(line.points)) for line in chart.series if line.points]
    colours = [_REFERENCE if line.is_reference else n for n, line in enumerate(series)]
    steps = [step for line in series for step, _ in line.points]
    values = [value for line in series for _, value in line.points]
    low, high = min(values), max(values)
    if from_zero and low >= 0 and (chart.is_share or low < 0.4 * high):
        low = 0.0
    ticks = nice_ticks(low, high)
    right = max(steps) if max(steps) > min(steps) else min(steps) + 1.0
    frame = Frame(min(steps), right, ticks[0], ticks[-1], chart.is_log)
    digits = 0 if ticks[1] - ticks[0] >= 0.01 else 1
    labels = [percent(tick, digits) if chart.is_share else compact(tick) for tick in ticks]
    return Plot(
        title=chart.title,
        kind="line",
        shapes=[
            Shape(frame.place(line.points), colour=colour, is_reference=line.is_reference)
            for line, colour in zip(series, colours, strict=True)
        ],
        x_labels=[(frame.x(step), compact(step)) for step in frame.ticks()],
        y_labels=[(frame.y(tick), label) for tick, label in zip(ticks, labels, strict=True)],
        description=_describe(chart, series),
        note=chart.note,
        names=[line.name for line in series],
        colours=colours,
        x_title=chart.x_title,
        table=_table(chart, series),
        values={
            "share": chart.is_share,
            "log": chart.is_log,
            "x": chart.x_title,
            "frame": [frame.left, frame.right, frame.bottom, frame.top],
            "series": [
                [line.name, line.points, colour]
                for line, colour in zip(series, colours, strict=True)
            ],
        },
    )


def _table(chart: Chart, series: Sequence[Series]) -> Values:
    """Return values at about a dozen positions; a line without a point there has the last one."""
    show = percent if chart.is_share else compact
    steps = sorted({step for line in series for step, _ in line.points})
    if len(steps) > _MAX_ROWS:
        places = {round(i * (len(steps) - 1) / (_MAX_ROWS - 1)) for i in range(_MAX_ROWS)}
        steps = [steps[place] for place in sorted(places)]
    rows = []
    for step in steps:
        before = [[value for at, value in line.points if at <= step] for line in series]
        rows.append([compact(step), *(show(past[-1]) if past else "–" for past in before)])
    return Values([chart.x_title, *(line.name for line in series)], rows)


def chart_svg(chart: Chart, x_title: str) -> str:
    """Draw a chart as a separate SVG file, for web pages and slides.

    Args:
        chart: From 1 to ``MAX_SERIES`` lines.
        x_title: Name of the horizontal axis.

    Returns:
        A complete SVG document without scripts and links.

    Raises:
        DataError: If there is no point, or there are more lines than colours.

    Examples:
        >>> chart_svg(Chart("Accuracy", [Series("top1", [(0, 0.5), (1, 0.9)])]), "alpha")[:4]
        '<svg'
    """
    num_lines = sum(bool(line.points) for line in chart.series)
    if not 1 <= num_lines <= MAX_SERIES:
        raise DataError(f"{chart.title}: expected 1 to {MAX_SERIES} lines, got {num_lines}")
    return render("chart.svg", {"plot": line_plot(chart, from_zero=False), "x_title": x_title})


def similarity_plot(histogram: SimilarityHistogram) -> Plot:
    """Place the two outlines of a histogram of cosine similarities."""
    edges = [float(edge) for edge in histogram.edges]
    both = (histogram.matching, histogram.other)
    frame = Frame(edges[0], edges[-1], 0.0, 1.08 * max(map(max, both)))
    means = [
        sum(s * (a + b) / 2 for s, a, b in zip(shares, edges[:-1], edges[1:], strict=True))
        for shares in both
    ]
    return Plot(
        title="Similarity of pairs",
        kind="area",
        shapes=[
            Shape(frame.place(_outline(edges, shares)), colour=n) for n, shares in enumerate(both)
        ],
        x_labels=[(frame.x(edge), f"{edge:.1f}") for edge in frame.ticks()],
        y_labels=[],
        description=f"Histogram of cosine similarity: matching pairs have a mean of "
        f"{means[0]:.2f}, all other pairs {means[1]:.2f}.",
        note="cosine",
        names=["matching", "other"],
        x_title="Cosine similarity",
        table=_histogram_table(edges, both),
    )


def _histogram_table(edges: Sequence[float], shares: Sequence[Sequence[float]]) -> Values:
    """Return the shares of both kinds of pairs in about a dozen bins."""
    size = -(-(len(edges) - 1) // _MAX_ROWS)
    rows = []
    for start in range(0, len(edges) - 1, size):
        end = min(start + size, len(edges) - 1)
        parts = (percent(sum(column[start:end])) for column in shares)
        rows.append([f"{edges[start]:.2f} to {edges[end]:.2f}", *parts])
    return Values(["Cosine similarity", "matching pairs, %", "other pairs, %"], rows)


def bar_plot(title: str, values: Sequence[int]) -> Plot:
    """Place the bars of a histogram of integers."""
    bins = histogram(values)
    frame = Frame(0, len(bins), 0, max(count for _, _, count in bins))
    shapes = []
    for number, (first, last, count) in enumerate(bins):
        span = f"{first:,}" if first == last else f"{first:,} to {last:,}"
        corners = [(number + x, y) for x, y in ((0.04, 0), (0.04, count), (0.96, count), (0.96, 0))]
        shapes.append(Shape(frame.place(corners), f"{span}: {grouped(count)}"))
    middle = sorted(values)[len(values) // 2]
    ends = {0.5: bins[0][0], len(bins) - 0.5: bins[-1][1]}
    return Plot(
        title=title,
        kind="bar",
        shapes=shapes,
        x_labels=[(frame.x(place), f"{value:,}") for place, value in ends.items()],
        y_labels=[],
        description=f"Histogram: {title}, from {min(values):,} to {max(values):,}.",
        note=f"{len(values):,} values from {min(values):,} to {max(values):,}, median {middle:,}",
        table=Values(["Values", "Number"], [shape.tip.rsplit(": ", 1) for shape in shapes]),
    )


def histogram(values: Sequence[int], num_bins: int = _NUM_BINS) -> list[tuple[int, int, int]]:
    """Count integers in equal bins from the smallest to the largest value.

    Examples:
        >>> histogram([1, 2, 2, 4], num_bins=2)
        [(1, 2, 3), (3, 4, 1)]
    """
    if not values:
        return []
    low, high = min(values), max(values)
    step = max(1, -(-(high - low + 1) // num_bins))
    counts = Counter((value - low) // step for value in values)
    starts = range(low, high + 1, step)
    return [(start, start + step - 1, counts[number]) for number, start in enumerate(starts)]


def thin_out(points: Points, limit: int = _MAX_POINTS) -> list[tuple[float, float]]:
    """Reduce the number of points of a line."""
    plain = [(float(step), float(value)) for step, value in points]
    if len(plain) <= limit:
        return plain
    inner = plain[1:-1]
    size = -(-len(inner) // (limit - 2))
    groups = [inner[start : start + size] for start in range(0, len(inner), size)]
    means = [(fmean(p[0] for p in group), fmean(p[1] for p in group)) for group in groups]
    return [plain[0], *means, plain[-1]]


def _outline(edges: Sequence[float], shares: Sequence[float]) -> list[tuple[float, float]]:
    corners = [(edges[0], 0.0)]
    for left, right, share in zip(edges[:-1], edges[1:], shares, strict=True):
        corners += [(left, share), (right, share)]
    return [*corners, (edges[-1], 0.0)]


def _describe(chart: Chart, series: Sequence[Series]) -> str:
    show = percent if chart.is_share else compact
    x = chart.x_title.lower()
    lines = [
        f"{line.name}: from {show(line.points[0][1])} at {x} {compact(line.points[0][0])} "
        f"to {show(line.points[-1][1])} at {x} {compact(line.points[-1][0])}"
        for line in series
    ]
    return f"{chart.title}. {'; '.join(lines)}."
