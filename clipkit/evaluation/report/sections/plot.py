"""Charts whose positions are known, and the frame that places values."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from clipkit.evaluation.report.numbers import nice_ticks

_SIZE: Final = 1000.0

Points = Sequence[tuple[float, float]]
Labels = Sequence[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Shape:
    """One line, area, bar or cloud of points."""

    points: Points  # corners (x, y), or the points of a cloud
    tip: str = ""  # text of its tooltip; empty for none
    kind: str = ""  # "line", "area", "bar", "dot", "guide" or "column"; empty for that of the plot
    colour: int = 0  # number of the colour
    is_reference: bool = False  # whether a line is dashed


@dataclass(frozen=True, slots=True)
class Values:
    """The table behind a chart."""

    columns: Sequence[str]  # headings
    rows: Sequence[Sequence[str]]  # cells, the first of a row being its heading


@dataclass(frozen=True, slots=True)
class Plot:
    """A chart whose positions are known, on a square of 1000 by 1000, origin at the upper left."""

    title: str  # heading
    kind: str  # "line", "area", "bar" or "dot"
    shapes: Sequence[Shape]  # what is drawn, the first below
    x_labels: Labels  # position and text of the labels of the horizontal axis
    y_labels: Labels  # position and text of the labels of the vertical axis, each with a grid line
    description: str  # text for screen readers
    note: str = ""  # unit or a few words, shown after the title
    names: Sequence[str] = ()  # legend, one name for each colour; shown if there are several
    colours: Sequence[int] = ()  # number of the colour of each name; empty for 0, 1, 2, ...
    x_title: str = ""  # quantity of the horizontal axis
    table: Values | None = None  # values of the chart as text; None for none
    # data from which the script of the page displays values; empty for none
    values: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Frame:
    """Values at the borders of a plot."""

    left: float
    right: float
    bottom: float
    top: float
    is_log: bool = False  # whether the horizontal axis is logarithmic

    def x(self, value: float) -> float:
        """Return the horizontal position of a value."""
        left, right, value = (
            (math.log10(v) if self.is_log else v) for v in (self.left, self.right, value)
        )
        return _SIZE * (value - left) / ((right - left) or 1.0)

    def y(self, value: float) -> float:
        """Return the vertical position of a value."""
        return _SIZE * (self.top - value) / ((self.top - self.bottom) or 1.0)

    def place(self, points: Points) -> list[tuple[float, float]]:
        """Return the positions of points."""
        return [(self.x(x), self.y(y)) for x, y in points]

    def ticks(self) -> list[float]:
        """Return the round values of the horizontal axis."""
        if self.is_log:
            first, last = math.ceil(math.log10(self.left)), math.floor(math.log10(self.right))
            return [10.0**power for power in range(first, last + 1)]
        ticks = nice_ticks(self.left, self.right)
        return [tick for tick in ticks if self.left <= tick <= self.right]
