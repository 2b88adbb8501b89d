"""Arrange the confusion matrix of a classifier, and list its most frequent errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from clipkit.evaluation.report.content import Confusion
from clipkit.evaluation.report.numbers import grouped, percent

_MAX_CLASSES: Final = 24
_MAX_PAIRS: Final = 8


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell of the heat map."""

    share: float  # share of the images of the row's class, from 0 to 1
    is_right: bool  # true on the diagonal
    tip: str  # text of the tooltip


@dataclass(frozen=True, slots=True)
class Pair:
    """A class predicted in place of another."""

    true: str  # name of the true class
    predicted: str  # name of the predicted class
    count: int  # number of images
    total: int  # number of images of the true class


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Confusion matrix of the classes with the most errors."""

    # name and cells of each class shown; row: true class, column: predicted class
    rows: list[tuple[str, list[Cell]]]
    num_classes: int  # number of classes of the classifier
    pairs: list[Pair]  # most frequent confusions of all classes, most frequent first


def heat_map(confusion: Confusion) -> HeatMap:
    """Arrange at most 24 classes and the eight most frequent confusions of all classes."""
    names = confusion.class_names
    chosen = most_confused(confusion, _MAX_CLASSES)
    rows = [(names[true], [_cell(confusion, true, other) for other in chosen]) for true in chosen]
    return HeatMap(rows, len(names), _frequent(confusion))


def most_confused(confusion: Confusion, limit: int) -> list[int]:
    """Select the classes that take part in the most errors."""
    counts = confusion.counts
    size = len(counts)
    errors = [sum(counts[i][j] + counts[j][i] for j in range(size) if j != i) for i in range(size)]
    worst = sorted(range(size), key=lambda index: (-errors[index], index))[:limit]
    return sorted(worst)


def share_of_row(confusion: Confusion, true: int, predicted: int) -> float:
    """Return the share of the images of class ``true`` that were predicted as ``predicted``."""
    total = sum(confusion.counts[true])
    return confusion.counts[true][predicted] / total if total else 0.0


def _cell(confusion: Confusion, true: int, predicted: int) -> Cell:
    names, is_right = confusion.class_names, true == predicted
    count, total = confusion.counts[true][predicted], sum(confusion.counts[true])
    share = share_of_row(confusion, true, predicted)
    what = "correct" if is_right else f"predicted as {names[predicted]}"
    tip = f"{names[true]}: {what}, {grouped(count)} of {grouped(total)} ({percent(share, 0)} %)"
    return Cell(share, is_right, tip)


def _frequent(confusion: Confusion) -> list[Pair]:
    names = confusion.class_names
    pairs = [
        Pair(names[true], names[predicted], count, sum(row))
        for true, row in enumerate(confusion.counts)
        for predicted, count in enumerate(row)
        if true != predicted and count > 0
    ]
    return sorted(pairs, key=lambda pair: -pair.count)[:_MAX_PAIRS]
