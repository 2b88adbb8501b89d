"""What is served: a collection, its engine and its model."""

from __future__ import annotations

from dataclasses import dataclass

from clipkit.collection import Collection
from clipkit.search.serving.schemas import ColumnAnswer


@dataclass(frozen=True, slots=True)
class Service:
    """A loaded collection.

    Args:
        collection: The collection.
        engine: Description of the search engine.
        columns: Columns that filters may name.
    """

    collection: Collection
    engine: str
    columns: list[ColumnAnswer]
