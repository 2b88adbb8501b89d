"""Write the page of a mask: numbers, histograms and images of what each filter removed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from math import nan
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import write_text
from clipkit.collection import Collection, CollectionImages
from clipkit.curation.filter_page.cards import Card, Cards
from clipkit.curation.filter_page.evidence import Cluster, Evidence, FilterEvidence, ShownRow
from clipkit.curation.filter_page.groups import LISTED, group_plot, group_table
from clipkit.curation.filter_page.histogram import histogram_plot
from clipkit.evaluation.report.numbers import grouped, percent
from clipkit.evaluation.report.rendering import render
from clipkit.evaluation.report.sections.plot import Plot, Values

_MAX_IMAGES: Final = 800
"""Images of a page, of some kilobytes each; further filters get no images."""
_OWN: Final = ""
"""Folder of the collection that was filtered, among those of other collections."""


@dataclass(frozen=True, slots=True)
class ShownCluster:
    """Copies of a sample: the one that is kept, the first copies, and the number of others."""

    kept: Card
    copies: Sequence[Card]
    num_more: int


@dataclass(frozen=True, slots=True)
class FilterBlock:
    """What the page shows of a filter."""

    number: int
    numbers: Mapping[str, Any]
    plots: Sequence[Plot]
    groups: Values | None
    num_more_groups: int
    strips: Sequence[tuple[str, Sequence[Card]]]
    clusters: Sequence[ShownCluster]
    near_pairs: Sequence[ShownCluster]
    other: str


def write_filter_page(
    path: Path,
    collection: Collection,
    images: CollectionImages,
    evidence: Evidence,
    summary: Mapping[str, Any],
    on_image: Callable[[int, int], None],
) -> None:
    """Write the page of filters.

    Args:
        path: The page.
        collection: The collection that was filtered.
        images: Its image files. One that cannot be read has a cross.
        evidence: What the page shows of each filter.
        summary: The summary of the mask.
        on_image: Called after each image with the numbers of completed and of all images.
    """
    shown = _within_limit(evidence.filters)
    cards = _read_cards(collection, images, shown, on_image)
    blocks = [
        _block(number, numbers, each, cards)
        for number, (numbers, each) in enumerate(zip(summary["filters"], shown, strict=True), 1)
    ]
    context = {
        "summary": summary,
        "tiles": _tiles(summary),
        "blocks": blocks,
        "num_unreadable": sum(each.num_unreadable for each in cards.values()),
    }
    write_text(path, render("filter.html", context))


def _tiles(summary: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    kept, total = summary["num_kept"], summary["num_samples"]
    num_filters = len(summary["filters"])
    return [
        ("Kept", "share of all samples", percent(kept / total), "%"),
        ("Samples kept", f"of {grouped(total)}", grouped(kept), ""),
        ("Samples removed", f"by {num_filters} filters", grouped(total - kept), ""),
    ]


def _block(
    number: int, numbers: Mapping[str, Any], evidence: FilterEvidence, cards: Mapping[str, Cards]
) -> FilterBlock:
    plots = [histogram_plot(evidence.histogram, evidence.measure)] if evidence.histogram else []
    groups = evidence.groups
    plots += [group_plot(groups)] if len(groups) > LISTED else []
    return FilterBlock(
        number=number,
        numbers=numbers,
        plots=plots,
        groups=group_table(groups) if groups else None,
        num_more_groups=max(0, len(groups) - LISTED),
        strips=[
            (strip.title, [cards[_OWN][row] for row in strip.rows]) for strip in evidence.strips
        ],
        clusters=[_cluster(each, evidence.other, cards) for each in evidence.clusters],
        near_pairs=[_cluster(each, evidence.other, cards) for each in evidence.near_pairs],
        other=evidence.other,
    )


def _cluster(cluster: Cluster, other: str, cards: Mapping[str, Cards]) -> ShownCluster:
    copies = [cards[_OWN][each] for each in cluster.copies]
    kept = cards[other][ShownRow(cluster.kept, nan)]
    return ShownCluster(kept, copies, cluster.num_copies - len(copies))


def _within_limit(filters: Iterable[FilterEvidence]) -> list[FilterEvidence]:
    """Return the evidence of filters, without rows after the largest number of images."""
    shown, num_images = [], 0
    for each in filters:
        num_images += sum(map(len, _wanted(each)))
        bare = FilterEvidence(each.measure, each.histogram, groups=each.groups)
        shown.append(each if num_images <= _MAX_IMAGES else bare)
    return shown


def _wanted(evidence: FilterEvidence) -> tuple[set[int], set[int]]:
    """Return the rows of this collection, and of the other one, that are shown of a filter."""
    clusters = (*evidence.clusters, *evidence.near_pairs)
    own = {row.row for strip in evidence.strips for row in strip.rows}
    own |= {row.row for cluster in clusters for row in cluster.copies}
    kept = {cluster.kept for cluster in clusters}
    return (own, kept) if evidence.other else (own | kept, set())


def _read_cards(
    collection: Collection,
    images: CollectionImages,
    filters: Sequence[FilterEvidence],
    on_image: Callable[[int, int], None],
) -> dict[str, Cards]:
    """Read the cards of all filters, by the folder of their collection."""
    rows: dict[str, set[int]] = {_OWN: set()}
    for each in filters:
        own, others = _wanted(each)
        rows[_OWN] |= own
        rows.setdefault(each.other, set()).update(others)
    total, done = sum(map(len, rows.values())), count(1)
    cards = {}
    for folder, numbers in rows.items():
        source = Collection(folder) if folder else collection
        files = CollectionImages(source) if folder else images
        cards[folder] = Cards(source, files, numbers, lambda: on_image(next(done), total))
    return cards
