"""Arrange the metrics of each class in a table with bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from clipkit.evaluation.report.content import ClassRow

_MAX_ROWS: Final = 2000
_COLUMNS: Final = (
    ("Recall", "recall", 0), ("Precision", "precision", 1), ("F1", "f1", 2),
    ("AP", "average_precision", 3),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ClassTable:
    """Classes in the order in which the page shows them at first."""

    rows: Sequence[ClassRow]  # the worst classes first, absent ones last
    columns: Sequence[tuple[str, str, int]]  # heading, attribute and colour of each metric
    sorted_by: str  # heading of the column by which the rows are sorted
    num_classes: int  # number of classes of the classifier
    most: int  # largest number of images of a class
    num_absent: int  # number of classes that do not occur


def class_table(rows: Sequence[ClassRow]) -> ClassTable:
    """Arrange at most 2,000 classes, those with the lowest F1 first.

    Without predictions it is the average precision. Metrics that no class has are
    left out.
    """
    columns = [
        column for column in _COLUMNS if any(getattr(row, column[1]) is not None for row in rows)
    ]
    names = [name for _, name, _ in columns]
    by = "f1" if "f1" in names else "average_precision"

    def order(row: ClassRow) -> tuple[bool, float, int]:
        value = getattr(row, by)
        return value is None, value or 0.0, -row.support

    return ClassTable(
        sorted(rows, key=order)[:_MAX_ROWS],
        columns,
        "F1" if by == "f1" else "AP",
        len(rows),
        max((row.support for row in rows), default=0),
        sum(not row.support for row in rows),
    )
