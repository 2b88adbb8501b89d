"""What a page shows of each filter: a histogram and a few rows, chosen while it is applied.

The values and decisions of a filter are of the size of the data; these parts are small.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Float32, Int64

from clipkit.curation.candidates import Candidates
from clipkit.curation.filter_page.histogram import ValueHistogram, value_histogram
from clipkit.curation.filters.base import NOT_A_COPY, Decision, Filter, GroupCount

SHOWN_ROWS: Final = 6
SHOWN_CLUSTERS: Final = 6
SHOWN_MEMBERS: Final = 5
_NEAREST_SHARE: Final = 0.05
"""Share of the samples of a side, the nearest to a limit, that the shown ones are selected from."""
_SEED: Final = 0


@dataclass(frozen=True, slots=True)
class ShownRow:
    """A sample of a strip, with the value that was measured; NaN for none."""

    row: int
    value: float


@dataclass(frozen=True, slots=True)
class Strip:
    """Samples in a row, under a title."""

    title: str
    rows: tuple[ShownRow, ...]


@dataclass(frozen=True, slots=True)
class Cluster:
    """Copies of a sample.

    Args:
        kept: Row of the sample that is kept, in the other collection if there is one.
        copies: Rows of the first copies, with their values.
        num_copies: Number of all copies.
    """

    kept: int
    copies: tuple[ShownRow, ...]
    num_copies: int


@dataclass(frozen=True, slots=True)
class FilterEvidence:
    """What the page shows of a filter.

    Args:
        measure: Name and unit of the values.
        histogram: Histogram of the values; None if there are none.
        strips: Samples near the limits, or random ones.
        clusters: Some copies, and what is kept in their place.
        near_pairs: Kept samples that are nearly copies, each with the most similar sample.
        other: Folder of the collection of which ``Cluster.kept`` is a row; "" for the same one.
        groups: Groups that were balanced, the largest first.
    """

    measure: str
    histogram: ValueHistogram | None = None
    strips: tuple[Strip, ...] = ()
    clusters: tuple[Cluster, ...] = ()
    near_pairs: tuple[Cluster, ...] = ()
    other: str = ""
    groups: tuple[GroupCount, ...] = ()


@final
@dataclass(slots=True)
class Evidence:
    """Collects the evidence of filters; ``collect`` is an ``on_decision`` of ``apply_filters``.

    Attributes:
        filters: Evidence of each filter.
    """

    filters: list[FilterEvidence] = field(default_factory=list)

    def collect(self, _: Filter, candidates: Candidates, decision: Decision) -> None:
        """Add a filter."""
        rng = np.random.default_rng((_SEED, len(self.filters)))
        self.filters.append(filter_evidence(candidates.rows, decision, rng))


def filter_evidence(
    rows: Int64[np.ndarray, " candidates"], decision: Decision, rng: np.random.Generator
) -> FilterEvidence:
    """Return what a page shows of a decision.

    Args:
        rows: Rows of the candidates.
        decision: The decision on them.
        rng: Selects samples.
    """
    values = decision.values
    if values is None:
        values = np.full(len(rows), np.nan, dtype=np.float32)
        histogram = None
    else:
        histogram = value_histogram(values, decision.removed, decision.limits)
    if decision.copy_of is None:
        strips = tuple(_strips(rows, values, decision, rng))
        return FilterEvidence(decision.measure, histogram, strips, groups=decision.groups)
    return FilterEvidence(
        decision.measure,
        histogram,
        clusters=tuple(_clusters(rows, values, decision.copy_of, rng)),
        near_pairs=tuple(_near_pairs(rows, values, decision)),
        other=decision.copies_from,
    )


def _strips(
    rows: Int64[np.ndarray, " candidates"],
    values: Float32[np.ndarray, " candidates"],
    decision: Decision,
    rng: np.random.Generator,
) -> list[Strip]:
    """Return samples on both sides of the limits, or random ones; nothing if none is removed."""
    removed, limits = decision.removed, decision.limits
    if not removed.any():
        return []
    parts: list[tuple[str, Bool[np.ndarray, " candidates"], float | None]] = []
    if limits:
        low, high = limits[0], limits[-1]
        parts = [
            (f"Removed, just below {low:.4g}", removed & (values < low), low),
            *((f"Kept, near {limit:.4g}", ~removed, limit) for limit in limits),
            (f"Removed, just above {high:.4g}", removed & (values > high), high),
            ("Removed without a value", removed & np.isnan(values), None),
        ]
    else:
        parts = [("Removed, at random", removed, None)]
    strips = (Strip(title, _chosen(rows, values, which, at, rng)) for title, which, at in parts)
    return [strip for strip in strips if strip.rows]


def _chosen(
    rows: Int64[np.ndarray, " candidates"],
    values: Float32[np.ndarray, " candidates"],
    which: Bool[np.ndarray, " candidates"],
    limit: float | None,
    rng: np.random.Generator,
) -> tuple[ShownRow, ...]:
    """Return a few random candidates of those nearest to a limit, in the order of their values."""
    places = np.flatnonzero(which)
    if limit is not None:
        distances = np.abs(values[places] - limit)
        num_near = max(2 * SHOWN_ROWS, round(_NEAREST_SHARE * len(places)))
        places = places[np.argsort(distances, kind="stable")[:num_near]]
    places = np.sort(rng.choice(places, min(SHOWN_ROWS, len(places)), replace=False))
    places = places[np.argsort(values[places], kind="stable")]
    return tuple(ShownRow(int(rows[at]), float(values[at])) for at in places)


def _clusters(
    rows: Int64[np.ndarray, " candidates"],
    values: Float32[np.ndarray, " candidates"],
    copy_of: Int64[np.ndarray, " candidates"],
    rng: np.random.Generator,
) -> list[Cluster]:
    """Return the clusters with the most copies, and as many random ones."""
    copies = np.flatnonzero(copy_of != NOT_A_COPY)
    kept, inverse, counts = np.unique(copy_of[copies], return_inverse=True, return_counts=True)
    largest = np.argsort(-counts, kind="stable")
    shown, others = largest[:SHOWN_CLUSTERS], largest[SHOWN_CLUSTERS:]
    random = rng.choice(others, min(SHOWN_CLUSTERS, len(others)), replace=False)
    clusters = []
    for number in (*shown.tolist(), *np.sort(random).tolist()):
        members = copies[np.flatnonzero(inverse == number)[: SHOWN_MEMBERS - 1]]
        listed = tuple(ShownRow(int(rows[at]), float(values[at])) for at in members)
        clusters.append(Cluster(int(kept[number]), listed, int(counts[number])))
    return clusters


def _near_pairs(
    rows: Int64[np.ndarray, " candidates"],
    values: Float32[np.ndarray, " candidates"],
    decision: Decision,
) -> list[Cluster]:
    """Return the kept candidates whose values are nearest to the limit."""
    if decision.nearest is None or not decision.limits:
        return []
    usable = np.flatnonzero(~decision.removed & ~np.isnan(values) & (decision.nearest >= 0))
    distances = np.abs(values[usable] - decision.limits[0])
    places = usable[np.argsort(distances, kind="stable")[:SHOWN_ROWS]]
    return [
        Cluster(int(decision.nearest[at]), (ShownRow(int(rows[at]), float(values[at])),), 1)
        for at in places
    ]
