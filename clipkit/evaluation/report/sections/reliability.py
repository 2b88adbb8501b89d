"""Draw accuracy over confidence."""

from __future__ import annotations

from typing import Final

from clipkit.evaluation.report.content import ReliabilityBin, ReliabilityDiagram
from clipkit.evaluation.report.numbers import grouped, percent
from clipkit.evaluation.report.sections.plot import Frame, Plot, Shape, Values

_OVER: Final = 1
_UNDER: Final = 2


def reliability_plot(reliability: ReliabilityDiagram) -> Plot:
    """Place a bar of the accuracy of each bin, its distance from the confidence, and the ideal."""
    frame = Frame(0.0, 1.0, 0.0, 1.0)
    shapes = []
    for part in reliability.bins:
        if part.count:
            low, high = sorted((part.accuracy, part.confidence))
            colour = _OVER if part.confidence > part.accuracy else _UNDER
            shapes.append(Shape(_box(frame, part, low, high), kind="area", colour=colour))
            shapes.append(Shape(_box(frame, part, 0.0, low), kind="bar"))
            # The pointer finds the complete column, also where the bar is low.
            shapes.append(Shape(_box(frame, part, 0.0, 1.0), _tip(part), "column"))
    shapes.append(Shape(frame.place([(0.0, 0.0), (1.0, 1.0)]), kind="guide"))
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    return Plot(
        title="Accuracy by confidence",
        kind="bar",
        shapes=shapes,
        x_labels=[(frame.x(tick), percent(tick, 0)) for tick in ticks],
        y_labels=[(frame.y(tick), percent(tick, 0)) for tick in ticks],
        description=f"Accuracy by confidence in {len(reliability.bins)} bins; expected "
        f"calibration error {percent(reliability.error)} %.",
        note="%",
        names=["accuracy", "overconfident by", "underconfident by"],
        x_title="Confidence, %",
        table=_table(reliability),
    )


def confidence_plot(reliability: ReliabilityDiagram) -> Plot:
    """Place a bar for the number of images of each bin."""
    most = max(part.count for part in reliability.bins) or 1
    frame = Frame(0.0, 1.0, 0.0, most)
    shapes = [Shape(_box(frame, p, 0.0, p.count), _tip(p), "bar", 5) for p in reliability.bins]
    ticks = [0.0, 0.25, 0.5, 0.75, 1.0]
    return Plot(
        title="Images by confidence",
        kind="bar",
        shapes=shapes,
        x_labels=[(frame.x(tick), percent(tick, 0)) for tick in ticks],
        y_labels=[(frame.y(0), "0"), (frame.y(most), grouped(most))],
        description=f"Number of images by confidence, at most {most:,} in a bin.",
        x_title="Confidence, %",
    )


def _box(
    frame: Frame, part: ReliabilityBin, bottom: float, top: float
) -> list[tuple[float, float]]:
    margin = 0.06 * (part.high - part.low)
    left, right = part.low + margin, part.high - margin
    return frame.place([(left, bottom), (left, top), (right, top), (right, bottom)])


def _tip(part: ReliabilityBin) -> str:
    return (
        f"confidence {percent(part.low, 0)} to {percent(part.high, 0)} %: {grouped(part.count)} "
        f"images, {percent(part.accuracy)} % correct, mean confidence {percent(part.confidence)} %"
    )


def _table(reliability: ReliabilityDiagram) -> Values:
    rows = [
        [
            f"{percent(part.low, 0)} to {percent(part.high, 0)}",
            grouped(part.count),
            percent(part.confidence) if part.count else "–",
            percent(part.accuracy) if part.count else "–",
        ]
        for part in reliability.bins
    ]
    return Values(["Confidence, %", "Images", "Mean confidence, %", "Accuracy, %"], rows)
