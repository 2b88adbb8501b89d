"""Histograms of the values of a filter: kept and removed samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Bool, Float32

from clipkit.evaluation.report.numbers import compact, grouped, nice_ticks
from clipkit.evaluation.report.sections.plot import Frame, Plot, Shape, Values

_NUM_BINS: Final = 40
_CUT_SHARE: Final = 0.002
"""Share of values at each end that is drawn in the outermost bins: some images are enormous."""
_SHOWN_TICKS: Final = 5
_KEPT, _REMOVED = 0, 1


@dataclass(frozen=True, slots=True)
class ValueHistogram:
    """Numbers of kept and removed samples by a value.

    Args:
        edges: Edges of the bins.
        kept: Number of kept samples of each bin.
        removed: Number of removed samples of each bin.
        limits: Values at which samples are separated.
        low: Smallest value.
        high: Largest value.
        num_unknown: Number of samples without a value.
    """

    edges: tuple[float, ...]
    kept: tuple[int, ...]
    removed: tuple[int, ...]
    limits: tuple[float, ...]
    low: float
    high: float
    num_unknown: int


def value_histogram(
    values: Float32[np.ndarray, " N"],
    removed: Bool[np.ndarray, " N"],
    limits: tuple[float, ...],
) -> ValueHistogram | None:
    """Count kept and removed samples in equal bins, whose outermost ones take the rest.

    Args:
        values: Value of each sample; NaN where it is unknown.
        removed: Whether each sample is removed.
        limits: Values that the bins have to cover.

    Returns:
        The histogram; None if no value is known.
    """
    is_known = np.isfinite(values)
    known, is_removed = values[is_known].astype(np.float64), removed[is_known]
    if not len(known):
        return None
    low, high = np.quantile(known, [_CUT_SHARE, 1 - _CUT_SHARE])
    low, high = min(low, *limits, high), max(high, *limits, low)
    margin = 0.0 if high > low else 0.5
    edges = np.linspace(low - margin, high + margin, _NUM_BINS + 1)
    inside = np.clip(known, edges[0], edges[-1])
    kept_counts, removed_counts = (
        np.histogram(inside[which], edges)[0] for which in (~is_removed, is_removed)
    )
    return ValueHistogram(
        edges=tuple(edges.tolist()),
        kept=tuple(kept_counts.tolist()),
        removed=tuple(removed_counts.tolist()),
        limits=limits,
        low=float(known.min()),
        high=float(known.max()),
        num_unknown=int((~is_known).sum()),
    )


def histogram_plot(histogram: ValueHistogram, measure: str) -> Plot:
    """Place the bars of a histogram, removed samples on top of kept ones, and the limits."""
    edges = histogram.edges
    totals = [a + b for a, b in zip(histogram.kept, histogram.removed, strict=True)]
    frame = Frame(edges[0], edges[-1], 0, 1.06 * max(totals))
    shapes = []
    rows = []
    for number, (kept, removed) in enumerate(zip(histogram.kept, histogram.removed, strict=True)):
        left, right = edges[number], edges[number + 1]
        span = f"{left:.4g} to {right:.4g}"
        rows.append([span, grouped(kept), grouped(removed)])
        tip = f"{span}: {grouped(kept)} kept, {grouped(removed)} removed"
        gap = 0.06 * (right - left)
        for colour, bottom, top in ((_KEPT, 0, kept), (_REMOVED, kept, kept + removed)):
            if top > bottom:
                corners = [
                    (left + gap, bottom), (left + gap, top), (right - gap, top),
                    (right - gap, bottom),
                ]  # fmt: skip
                shapes.append(Shape(frame.place(corners), tip, colour=colour))
    for limit in histogram.limits:
        line = frame.place([(limit, 0), (limit, frame.top)])
        shapes.append(Shape(line, kind="guide"))
    ticks = nice_ticks(edges[0], edges[-1], _SHOWN_TICKS)
    return Plot(
        title=measure,
        kind="bar",
        shapes=shapes,
        x_labels=[(frame.x(t), compact(t)) for t in ticks if edges[0] <= t <= edges[-1]],
        y_labels=[],
        description=f"Histogram: {measure}, from {histogram.low:.4g} to {histogram.high:.4g}.",
        note=_note(histogram),
        names=("kept", "removed"),
        colours=(_KEPT, _REMOVED),
        table=Values(("Values", "Kept", "Removed"), rows),
    )


def _note(histogram: ValueHistogram) -> str:
    parts = [f"{histogram.low:.4g} to {histogram.high:.4g}"]
    if histogram.limits:
        shown = " and ".join(f"{limit:.4g}" for limit in histogram.limits)
        parts.append(f"limit {shown} (dashed)")
    if histogram.num_unknown:
        parts.append(f"{grouped(histogram.num_unknown)} without a value")
    return ", ".join(parts)
