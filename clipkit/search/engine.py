"""What every search engine does: return the rows of a collection most similar to a query."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Int64

from clipkit.errors import ConfigError, MetricError

Queries = Float32[np.ndarray, "queries D"]
RowMask = Bool[np.ndarray, " N"]
NO_ROW = -1
"""Row of a result that does not exist, because fewer rows may be returned than were wanted."""


@dataclass(frozen=True, slots=True)
class Ranked:
    """The most similar rows of each query, the best first.

    Args:
        scores: Cosine similarities; -inf where there is no row.
        rows: Numbers of the rows; ``NO_ROW`` where there is none.
    """

    scores: Float32[np.ndarray, "queries results"]
    rows: Int64[np.ndarray, "queries results"]


class SearchEngine(ABC):
    """Finds the rows of a collection that are most similar to queries.

    Rows without an embedding are never returned.
    """

    @property
    @abstractmethod
    def description(self) -> str:
        """Name of the engine with its parameters, for people."""

    @abstractmethod
    def search(self, queries: Queries, num_results: int, rows: RowMask | None = None) -> Ranked:
        """Return the most similar rows of each query.

        Args:
            queries: Unit-norm vectors.
            num_results: Number of rows per query.
            rows: Rows that may be returned; None for all.

        Returns:
            Scores, in descending order, and rows. Of equal scores the lower row comes first.

        Raises:
            ConfigError: If the queries have another width, or ``num_results`` is below 1.
            MetricError: If a query is not finite.
        """


def check_queries(queries: Queries, width: int, num_results: int) -> None:
    """Check the arguments of ``SearchEngine.search``.

    Raises:
        ConfigError: If the queries have another width, or ``num_results`` is below 1.
        MetricError: If a query is not finite.
    """
    if queries.ndim != 2 or queries.shape[1] != width:
        raise ConfigError(
            f"queries: expected vectors of {width} components, as the collection has, got shape "
            f"{list(queries.shape)}"
        )
    if num_results < 1:
        raise ConfigError(f"num_results: expected at least 1, got {num_results}")
    finite = np.isfinite(queries).all(axis=1)
    if not finite.all():
        raise MetricError(
            f"query {int(np.argmin(finite))}: expected finite numbers, got NaN or infinity; check "
            "the model's weights"
        )


def check_mask(rows: RowMask | None, num_rows: int) -> None:
    """Check that a mask has one value per row.

    Raises:
        ConfigError: If it has not.
    """
    if rows is not None and rows.shape != (num_rows,):
        raise ConfigError(f"rows: expected a mask of {num_rows} rows, got {list(rows.shape)}")
