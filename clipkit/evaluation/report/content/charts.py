"""Lines on common axes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

MAX_SERIES: Final = 6
"""Number of line colours; a chart with more lines repeats them."""


@dataclass(frozen=True, slots=True)
class Series:
    """One line of a chart.

    Args:
        name: Name in the legend.
        points: Points (step, value) with increasing steps, or (x, value) with increasing x.
        is_reference: True for a line to compare with, which is grey and dashed.
    """

    name: str
    points: Sequence[tuple[float, float]]
    is_reference: bool = False


@dataclass(frozen=True, slots=True)
class Chart:
    """Lines on common axes.

    Args:
        title: Quantity that the lines show.
        series: Lines; after ``MAX_SERIES`` of them the colours repeat.
        is_share: True if the values are shares from 0 to 1, which are printed as percentages.
        note: Unit of the values, or a few words.
        x_title: Quantity of the horizontal axis.
        is_log: True for a logarithmic horizontal axis, whose values are positive.
    """

    title: str
    series: Sequence[Series]
    is_share: bool = False
    note: str = ""
    x_title: str = "Step"
    is_log: bool = False
