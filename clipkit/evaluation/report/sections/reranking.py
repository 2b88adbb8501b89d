"""Arrange recall before and after re-ranking in a table."""

from __future__ import annotations

from clipkit.evaluation.report.content import Reranking
from clipkit.evaluation.report.numbers import grouped, percent
from clipkit.evaluation.report.sections.plot import Values


def reranking_table(content: Reranking) -> Values:
    """Return a row for each direction and depth: recall before and after, queries and time."""
    columns = [
        "Direction", "Recall at", "Before, %", "After, %", "Queries", "First changed",
        "ms per query",
    ]  # fmt: skip
    rows = [
        [
            part.direction,
            grouped(k),
            percent(before),
            percent(after),
            grouped(part.num_queries),
            grouped(part.num_changed),
            f"{1000 * part.seconds_per_query:.3g}",
        ]
        for part in content.directions
        for k, before, after in part.recalls
    ]
    return Values(columns, rows)
