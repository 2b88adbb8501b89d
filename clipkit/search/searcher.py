"""Search in a collection: queries of several parts, filters, and records of the results."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float32

from clipkit.collection import Collection
from clipkit.errors import ConfigError
from clipkit.models import TowerEncoder
from clipkit.search.engine import NO_ROW, RowMask, SearchEngine
from clipkit.search.filter_masks import FilterMasks
from clipkit.search.index.opening import open_engine
from clipkit.search.modalities import searched_modality
from clipkit.search.query_encoder import QueryEncoder
from clipkit.search.query_parts import QueryPart, check_parts, combined
from clipkit.search.records import read_records
from clipkit.search.row_filter import RowFilter

MAX_RESULTS: Final = 100_000
"""Largest sum of ``offset`` and ``num_results``."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A row that was found.

    Args:
        row: Number of the row.
        score: Cosine similarity with the query.
    """

    row: int
    score: float


@dataclass(frozen=True, slots=True)
class SearchResult:
    """Answer to a query.

    Args:
        hits: The rows, the most similar first; of equal scores the lower row first.
        num_candidates: Number of rows that could be returned: those that pass the filters.
    """

    hits: tuple[Hit, ...]
    num_candidates: int


@final
class Searcher:
    """Searches in a collection by texts, images, sounds and rows; safe for threads.

    Args:
        folder: The collection, a folder that ``clipkit embed`` wrote.
        encoder: The model that embedded it; None to load it when a query needs it.
        model: Name or path of that model; None for the one of ``collection.json``.
        device: Device of the model, or "auto" for a GPU if there is one.
        engine: Finds the most similar rows; None for the index of the collection if one was built,
            else ``ExactEngine``. It has the same modality.
        modality: What is searched for: "image", or the name of a further modality, such as "sound";
            None for the first of them of which a sample has an embedding.

    Raises:
        DataError: If the folder is no complete collection.
        ConfigError: If the encoder is not the collection's model, or the collection has no
            embeddings of the modality.

    Examples:
        >>> searcher = Searcher("collection")
        >>> searcher.search([QueryPart(row=0)], num_results=1).hits[0].row != 0
        True
    """

    def __init__(
        self,
        folder: Path | str,
        encoder: TowerEncoder | None = None,
        *,
        model: str | None = None,
        device: str = "auto",
        engine: SearchEngine | None = None,
        modality: str | None = None,
    ) -> None:
        self.collection = Collection(folder)
        self.modality = searched_modality(self.collection, modality)
        self.encoder = QueryEncoder(self.collection.info, encoder, model, device)
        self.masks = FilterMasks(self.collection, self.modality)
        if modality is not None and not self.masks.usable.any():
            raise ConfigError(f"{folder}: no sample of the collection has an embedded {modality}")
        if engine is None:
            engine = open_engine(self.collection, self.masks.usable, self.modality)
        self.engine = engine

    def search(
        self,
        parts: Sequence[QueryPart],
        filters: Sequence[RowFilter] = (),
        num_results: int = 20,
        offset: int = 0,
        min_score: float | None = None,
    ) -> SearchResult:
        """Return the rows that are most similar to a query.

        The query is the weighted sum of the unit-norm embeddings of its parts, with unit norm. Rows
        that are parts themselves are not returned.

        Args:
            parts: Parts of the query.
            filters: Filters that a row must all pass.
            num_results: Number of hits.
            offset: Number of better hits that are left out.
            min_score: Least similarity of a hit; None for any.

        Raises:
            ConfigError: If an argument is out of range, a filter has no such column, or the parts
                cancel each other.
            DataError: If a row does not exist or has no embedding, or an image or a sound
                cannot be decoded.
        """
        _check_range(num_results, offset, min_score)
        query = self.query_vector(parts)
        rows = self.masks.mask(
            filters, without=[part.row for part in parts if part.row is not None]
        )
        return self.search_vector(query, rows, num_results, offset, min_score)

    def search_vector(
        self,
        query: Float32[np.ndarray, " D"],
        rows: RowMask,
        num_results: int,
        offset: int = 0,
        min_score: float | None = None,
    ) -> SearchResult:
        """Return the rows of a mask that are most similar to a unit-norm vector."""
        num_candidates = int(np.count_nonzero(rows))
        ranked = self.engine.search(query[None], offset + num_results, rows)
        hits = [
            Hit(row, score)
            for row, score in zip(ranked.rows[0].tolist(), ranked.scores[0].tolist(), strict=True)
            if row != NO_ROW and (min_score is None or score >= min_score)
        ]
        return SearchResult(tuple(hits[offset:]), num_candidates)

    def query_vector(self, parts: Sequence[QueryPart]) -> Float32[np.ndarray, " D"]:
        """Return the unit-norm vector of a query; see ``search``."""
        check_parts(parts)
        vectors = np.empty((len(parts), self.collection.info.embedding_dim), dtype=np.float32)
        texts = [number for number, part in enumerate(parts) if part.text is not None]
        if texts:
            vectors[texts] = self.encoder.texts([str(parts[number].text) for number in texts])
        for number, part in enumerate(parts):
            if part.image is not None:
                vectors[number] = self.encoder.image(part.image)
            elif part.sound is not None:
                vectors[number] = self.encoder.sound(part.sound)
            elif part.row is not None:
                vectors[number] = self._row_vector(part.row)
        return combined(vectors, [part.weight for part in parts])

    def records(
        self, rows: Sequence[int], columns: Sequence[str] | None = None
    ) -> list[dict[str, Any]]:
        """Return the values of the columns of some rows, in their order.

        Args:
            rows: Numbers of the rows.
            columns: Names of the columns; None for all that people read (no hashes and offsets).

        Raises:
            DataError: If there is no such row or column.
        """
        return read_records(self.collection, rows, columns)

    def _row_vector(self, row: int) -> Float32[np.ndarray, " D"]:
        self.collection.locate(row)
        if not self.masks.usable[row]:
            raise ConfigError(
                f"row {row}: expected a row with an embedding ({self.modality}), got one with an "
                f"error"
            )
        rows = self.collection.embeddings(np.array([row]), self.modality)
        vector: Float32[np.ndarray, " D"] = rows[0].astype(np.float32)
        return vector


def _check_range(num_results: int, offset: int, min_score: float | None) -> None:
    if num_results < 1 or offset < 0 or num_results + offset > MAX_RESULTS:
        raise ConfigError(
            f"num_results, offset: expected at least 1 and 0, in sum at most {MAX_RESULTS:,}, got "
            f"{num_results} and {offset}"
        )
    if min_score is not None and not -1 <= min_score <= 1:
        raise ConfigError(f"min_score: expected a cosine similarity, -1 to 1, got {min_score}")
