"""Filters by the embedding of the image: within the data, and against other data."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Float16, Float32, Int64

from clipkit.collection import Collection
from clipkit.curation.candidates import EMBEDDING_ROWS, Candidates, finite_rows
from clipkit.curation.filters.base import NOT_A_COPY, Decision, Filter
from clipkit.curation.filters.copies.cells import (
    CELLS_PER_SAMPLE,
    cell_centres,
    nearest_cells,
    num_cells,
)
from clipkit.curation.filters.copies.preference import (
    copy_notes,
    preference,
)
from clipkit.curation.filters.copies.similar import Nearest, note_copies
from clipkit.errors import ConfigError, check_range

DEFAULT_SIMILARITY: Final = 0.95
MEASURE: Final = "Cosine similarity to the nearest kept image"
KNOWN_MEASURE: Final = "Cosine similarity to the nearest image of the other data"
_OPEN_SHARDS: Final = 64
"""Files that are mapped at a time: a process may usually open 1,024."""
_TILE_ROWS: Final = 4096


@final
@dataclass(frozen=True, slots=True)
class EmbeddingDuplicateFilter(Filter):
    """Keeps one of the samples whose images have similar embeddings.

    Of several copies, the image with the most pixels is kept, then the best score, then the first
    row. Up to 32,768 candidates are all compared with each other. More are compared inside cells of
    similar embeddings, each candidate in its two nearest cells: a copy whose cells are both others
    than those of the kept image is not found, and a copy of a copy is removed, too.

    Args:
        min_similarity: Cosine similarity from which an image is a copy.

    Raises:
        ConfigError: If it is not from 0.3 to 1.
    """

    min_similarity: float = DEFAULT_SIMILARITY

    def __post_init__(self) -> None:
        check_range("embedding_duplicates", self.min_similarity, 0.3, 1.0)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"one of images with a cosine similarity of at least {self.min_similarity:g}"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove copies."""
        rank = preference(candidates)
        nearest = Nearest.of_none(len(candidates))
        reader = _Rows(candidates)
        for start, total, samples in _cells(candidates, rank):
            for done in note_copies(samples, reader.read, self.min_similarity, nearest):
                candidates.on_rows(start + done, total)
        removed = nearest.similarities >= self.min_similarity
        kept = kept_samples(nearest.samples, removed)
        rows = np.where(nearest.samples >= 0, candidates.rows[nearest.samples], NOT_A_COPY)
        copy_of = np.where(removed, candidates.rows[kept], NOT_A_COPY)
        return Decision(
            removed, nearest.similarities, MEASURE, (self.min_similarity,),
            copy_of=copy_of, nearest=rows, notes=copy_notes(copy_of),
        )  # fmt: skip


@final
@dataclass(frozen=True, slots=True)
class KnownEmbeddingFilter(Filter):
    """Keeps samples whose images are similar to none of another collection.

    For evaluation data that training data must not contain. All candidates are compared with all
    images of the other collection.

    Args:
        collection: Folder of the other collection, embedded by the same model.
        min_similarity: Cosine similarity from which an image is a copy.

    Raises:
        ConfigError: If ``min_similarity`` is not from 0.3 to 1.
    """

    collection: Path
    min_similarity: float = DEFAULT_SIMILARITY

    def __post_init__(self) -> None:
        check_range("not_near", self.min_similarity, 0.3, 1.0)

    @property
    def description(self) -> str:
        """What is kept."""
        return f"no cosine similarity of at least {self.min_similarity:g} to {self.collection.name}"

    def decide(self, candidates: Candidates) -> Decision:
        """Remove copies of the images of the other collection.

        Raises:
            DataError: If the other folder is no complete collection.
            ConfigError: If another model embedded it.
        """
        others = Collection(self.collection)
        check_same_model(candidates.collection, others)
        nearest = Nearest.of_none(len(candidates))
        for places, rows in candidates.embeddings():
            samples = np.arange(places.start, places.stop)
            for first, images in others.image_tiles(EMBEDDING_ROWS):
                _note_most_similar(samples, rows, first, images, nearest)
        removed = nearest.similarities >= self.min_similarity
        return Decision(
            removed, nearest.similarities, KNOWN_MEASURE, (self.min_similarity,),
            copy_of=np.where(removed, nearest.samples, NOT_A_COPY),
            copies_from=str(self.collection), nearest=nearest.samples,
        )  # fmt: skip


def kept_samples(
    samples: Int64[np.ndarray, " N"], removed: Bool[np.ndarray, " N"]
) -> Int64[np.ndarray, " N"]:
    """Return the kept sample in whose place each one is removed; a kept one's own number.

    Inside cells, a sample may be a copy of one that is a copy itself.

    Examples:
        >>> kept_samples(np.array([-1, 0, 1, 1]), np.array([False, True, True, False]))
        array([0, 0, 0, 3])
    """
    kept = np.where(removed, samples, np.arange(len(samples)))
    while removed[kept].any():  # every step leads to a preferred sample
        kept = np.where(removed[kept], samples[kept], kept)
    return kept


def check_same_model(first: Collection, second: Collection) -> None:
    """Refuse collections whose embeddings cannot be compared.

    Raises:
        ConfigError: If their models or weights differ.
    """
    models = [
        (each.info.model_hash, each.info.model, each.info.weights) for each in (first, second)
    ]
    (own_hash, *own), (other_hash, *other) = models
    is_same = own_hash == other_hash if own_hash and other_hash else own == other
    if not is_same or first.info.embedding_dim != second.info.embedding_dim:
        raise ConfigError(
            f"not_near: expected {second.folder} to be embedded by the model of {first.folder}, "
            f"{own[0]}, got {other[0]}; embed it again, or use not_in, which needs no model"
        )


def _note_most_similar(
    samples: Int64[np.ndarray, " rows"],
    rows: Float32[np.ndarray, "rows D"],
    first: int,
    images: Float16[np.ndarray, "tile D"],
    nearest: Nearest,
) -> None:
    """Note the most similar of some images of another collection, from row ``first``."""
    others = finite_rows(images).T
    for start in range(0, len(rows), _TILE_ROWS):
        part = slice(start, start + _TILE_ROWS)
        similarities = rows[part] @ others
        best = similarities.argmax(axis=1)
        values = similarities[np.arange(len(best)), best]
        nearest.note(samples[part], values, first + best)


def _cells(
    candidates: Candidates, rank: Int64[np.ndarray, " candidates"]
) -> Iterator[tuple[int, int, Int64[np.ndarray, " rows"]]]:
    """Yield the numbers of previous and of all places, and the places of a cell by their rank."""
    wanted = num_cells(len(candidates))
    if wanted == 1:
        yield 0, len(candidates), np.argsort(rank)
        return
    centres = cell_centres(candidates, wanted)
    cells = np.empty((len(candidates), CELLS_PER_SAMPLE), dtype=np.int32)
    for places, rows in candidates.embeddings():
        cells[places] = nearest_cells(rows, centres)
    labels = cells.reshape(-1)
    order = np.lexsort((np.repeat(rank, CELLS_PER_SAMPLE), labels))
    ends = np.searchsorted(labels[order], np.arange(1, len(centres) + 1))
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield int(start), len(order), order[start:end] // CELLS_PER_SAMPLE


@final
class _Rows:
    """Reads embeddings of candidates in any order; the last used files stay mapped."""

    def __init__(self, candidates: Candidates) -> None:
        collection = candidates.collection
        self._rows = candidates.rows
        self._starts = collection.starts
        self._width = collection.info.embedding_dim
        self._map = lru_cache(_OPEN_SHARDS)(lambda shard: collection.shards[shard].images())

    def read(self, places: Int64[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows D"]:
        """Read the embeddings of some candidates."""
        rows = self._rows[places]
        shards = np.searchsorted(self._starts, rows, side="right") - 1
        found = np.empty((len(rows), self._width), dtype=np.float32)
        order = np.argsort(shards, kind="stable")
        numbers, starts = np.unique(shards[order], return_index=True)
        for shard, at in zip(numbers.tolist(), np.split(order, starts[1:]), strict=True):
            found[at] = finite_rows(self._map(shard)[rows[at] - self._starts[shard]])
        return found
