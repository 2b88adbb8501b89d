"""Select the large figures, and arrange metrics in tables."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clipkit.evaluation.report.content import Result
from clipkit.evaluation.report.sections.listings import (
    DIRECTIONS,
    Listing,
    group_listings,
    is_listed,
    metric_cell,
    modality_listings,
    translation_listings,
)

_RECALL: Final = re.compile(r"(text_to_image|image_to_text)/recall_at_(\d+)$")
_WIDTH: Final = re.compile(r"width_(\d+)/(?:text_to_image|image_to_text)/recall_at_(\d+)$")
_HEADLINES: Final = (
    ("text_to_image/recall_at_1", "Text to image", "recall at 1"),
    ("image_to_text/recall_at_1", "Image to text", "recall at 1"),
    ("text_to_image/recall_at_10", "Text to image", "recall at 10"),
    ("image_to_text/recall_at_10", "Image to text", "recall at 10"),
    ("top1", "Classes", "top-1"),
)
_CLASSES: Final = {
    "top1": "Top-1", "top5": "Top-5", "mean_per_class_recall": "Mean of classes",
    "macro_f1": "Macro F1", "mean_average_precision": "mAP", "ece": "ECE",
    "ece_calibrated": "ECE, calibrated",
}  # fmt: skip
_SAME: Final = ("balanced_accuracy", "macro_recall")
"""Other names of the mean of classes."""
_DIRECTED: Final = re.compile(r"(.*?)(text_to_image|image_to_text)/(.+)")
_SPELLINGS: Final = {
    "map": "mAP", "ndcg": "nDCG", "at r": "at R", "r precision": "R-precision", "f1": "F1",
    "rsum": "sum of recalls (rsum)", "ece": "ECE", "auroc": "AUROC",
    "top1": "Top-1", "top5": "Top-5",
}  # fmt: skip
_MAX_HEADLINES: Final = 4


@dataclass(frozen=True, slots=True)
class Headline:
    """One large figure."""

    title: str  # what was measured
    unit: str  # name of the metric
    value: float  # share from 0 to 1
    baseline: float | None  # share of the baseline; None if it was not measured
    interval: tuple[float, float] | None = None  # limits of the confidence interval


@dataclass(frozen=True, slots=True)
class Headlines:
    """The large figures of the first result."""

    figures: list[Headline]  # at most four figures
    measured: Result  # result that they are taken from
    baseline: Result | None  # result that they are compared with; None for no comparison


@dataclass(frozen=True, slots=True)
class Table:
    """Metrics as a table."""

    title: str  # caption
    # heading of each group of columns, and metric keys with headings of its columns
    groups: Sequence[tuple[str, dict[str, str]]]
    rows: Sequence[Result]  # results with at least one of the metrics


def headlines(results: Sequence[Result]) -> Headlines | None:
    """Select up to four figures of the first result, compared with the first baseline."""
    measured = next((result for result in results if not result.is_baseline), None)
    baseline = next((result for result in results if result.is_baseline), None)
    if measured is None:
        return None
    compared = baseline.metrics if baseline is not None else {}
    figures = [
        Headline(title, unit, measured.metrics[key], compared.get(key), measured.intervals.get(key))
        for key, title, unit in _HEADLINES
        if key in measured.metrics
    ]
    return Headlines(figures[:_MAX_HEADLINES], measured, baseline) if figures else None


def tables(results: Sequence[Result]) -> list[Table]:
    """Arrange shares in tables, which are printed in percent: recalls, also by width, and classes.

    ``listings`` has the other metrics.
    """
    keys = {key for result in results for key in result.metrics}
    ks = sorted({int(match[2]) for key in keys if (match := _RECALL.match(key))})
    recalls = [(title, {f"{way}/recall_at_{k}": f"R@{k}" for k in ks}) for way, title in DIRECTIONS]
    widths = _by_width(keys)
    classes = {key: title for key, title in _CLASSES.items() if key in keys}
    candidates = [
        Table("Retrieval, recall in percent", recalls, _rows(results, recalls)),
        Table("Recall by number of components, percent", widths, _rows(results, widths)),
        Table("Classification, percent", [("", classes)], _rows(results, [("", classes)])),
    ]
    return [table for table in candidates if table.rows]


def listings(results: Sequence[Result]) -> list[Listing]:
    """Return tables of the metrics of each result that ``tables`` leaves out."""
    made: list[Listing] = []
    for result in results:
        made += [
            *modality_listings(result),
            *group_listings(result),
            *translation_listings(result),
        ]
        keys = [key for key in result.metrics if not _is_in_tables(key, result)]
        columns: dict[str, dict[str, str]] = {}
        for key in keys:
            match = _DIRECTED.fullmatch(key)
            name, column = (match[1] + match[3], match[2]) if match else (key, "")
            columns.setdefault(readable_metric(name), {})[column] = key
        ways = [way for way, _ in DIRECTIONS if any(way in places for places in columns.values())]
        for headings in (ways, [""]):
            rows = [
                (name, [metric_cell(result, places.get(heading)) for heading in headings])
                for name, places in columns.items()
                if not set(headings).isdisjoint(places)
            ]
            titles = [dict(DIRECTIONS).get(heading, "Value") for heading in headings]
            if rows:
                made.append(Listing(f"{result.name}: other metrics", result.note, titles, rows))
    return made


def _is_in_tables(key: str, result: Result) -> bool:
    if key in _SAME:
        return "mean_per_class_recall" in result.metrics
    of_tables = key in _CLASSES or _RECALL.match(key) or _WIDTH.match(key)
    return bool(of_tables) or is_listed(key, result)


def readable_metric(name: str) -> str:
    """Return the key of a metric as words.

    Examples:
        >>> readable_metric("text_to_image/ndcg_at_10"), readable_metric("top1")
        ('Text to image: nDCG at 10', 'Top-1')
    """
    words = name.replace("_", " ").replace("/", ": ")
    for pattern, better in _SPELLINGS.items():
        words = re.sub(rf"\b{pattern}\b", better, words)
    return words[:1].upper() + words[1:] if words.split()[0].islower() else words


def _by_width(keys: set[str]) -> list[tuple[str, dict[str, str]]]:
    """Return the columns of truncated embeddings, from the narrowest to the complete ones."""
    matches = sorted((int(match[1]), match[2]) for key in keys if (match := _WIDTH.match(key)))
    widths = dict.fromkeys(matches)
    return [
        (
            f"{title}, R@{k}",
            {f"width_{width}/{way}/recall_at_{k}": str(width) for width, at in widths if at == k}
            | {f"{way}/recall_at_{k}": "all"},
        )
        for k in sorted({at for _, at in widths}, key=int)
        for way, title in DIRECTIONS
    ]


def _rows(results: Sequence[Result], groups: Sequence[tuple[str, dict[str, str]]]) -> list[Result]:
    keys = {key for _, columns in groups for key in columns}
    return [result for result in results if not keys.isdisjoint(result.metrics)]
