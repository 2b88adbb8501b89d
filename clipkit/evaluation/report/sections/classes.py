"""Arrange the metrics of each class in a table with bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clipkit.evaluation.report.content import ClassRow

_MAX_ROWS: Final = 2000


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Classes in the order in which the page shows them at first."""

    rows: Sequence[ClassRow]  # classes with the lowest F1 first, absent ones last
    num_classes: int  # number of classes of the classifier
    most: int  # largest number of images of a class
    num_absent: int  # number of classes that do not occur


def class_table(rows: Sequence[ClassRow]) -> ClassTable:
    """Arrange at most 2,000 classes, those with the lowest F1 first."""
    ordered = sorted(rows, key=lambda row: (row.f1 is None, row.f1 or 0.0, -row.support))
    return ClassTable(
        ordered[:_MAX_ROWS],
        len(rows),
        max((row.support for row in rows), default=0),
        sum(not row.support for row in rows),
    )
