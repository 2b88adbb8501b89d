"""What is served: a collection, its engine and its model, with what is kept between requests."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, final

import numpy as np

from clipkit.collection import CollectionFiles
from clipkit.collection.info import IMAGE, CollectionInfo
from clipkit.errors import ClipkitError, SampleError
from clipkit.search.collection_map import MAX_POINTS, MapPoints, evenly_spread, map_collection
from clipkit.search.query_parts import combined
from clipkit.search.row_filter import RowFilter
from clipkit.search.searcher import Searcher, SearchResult
from clipkit.search.serving.column_facts import column_names, describe_column
from clipkit.search.serving.failures import HttpError
from clipkit.search.serving.images.uploads import Uploads
from clipkit.search.serving.kept import LeastRecentlyUsed, SharedResults
from clipkit.search.serving.kept_records import KeptRecords
from clipkit.search.serving.options import Limits
from clipkit.search.serving.queries.embedder import Embedder, Vector
from clipkit.search.serving.queries.labels import Labels
from clipkit.search.serving.queries.vector_search import VectorQuery, VectorSearch
from clipkit.search.serving.schemas import ColumnAnswer
from clipkit.search.serving.work import WorkPool
from clipkit.search.thumbnails import small_jpeg

_KEPT_COLUMNS: Final = 64
_KEPT_MAPS: Final = 4
_MAP_SIZES: Final = (1000, 5000, MAX_POINTS)


@final
class Service:
    """A loaded collection, for the routes.

    Args:
        searcher: Searches in the collection.
        read_image: Reads the image file of a row.
        limits: Bounds of memory and time.
        others: Searchers for further modalities of the same collection.
    """

    def __init__(
        self,
        searcher: Searcher,
        read_image: Callable[[int], bytes],
        limits: Limits,
        others: Sequence[Searcher] = (),
    ) -> None:
        self.searcher = searcher
        self.collection = searcher.collection
        self.info: CollectionInfo = searcher.collection.info
        self.columns = column_names(searcher.collection)
        self._read_image = read_image
        self._limits = limits
        self._images = WorkPool("images", limits.threads, limits.waiting)
        self._tables = WorkPool("tables", limits.threads, limits.waiting)
        self._slow = WorkPool("summaries", 1, limits.waiting)
        self.searchers = {each.modality: each for each in (searcher, *others)}
        self._searches = {
            name: VectorSearch(each, limits.waiting) for name, each in self.searchers.items()
        }
        self._sounds = {
            name: CollectionFiles(self.collection, name) for name in self.info.modalities
        }
        self._embedder = Embedder(searcher.encoder, limits.waiting)
        self.uploads = Uploads(searcher.encoder, self._embedder, self._images, limits)
        encoder = searcher.encoder.load()
        self.labels = Labels(
            self._embedder, self.info, lambda name: float(encoder.scale_with_text(name).detach())
        )
        self._records = KeptRecords(searcher.collection, limits.table_bytes)
        self._thumbnails: LeastRecentlyUsed[tuple[int, int], bytes] = LeastRecentlyUsed(
            limits.thumbnail_bytes, len
        )
        self._columns: SharedResults[str, ColumnAnswer] = SharedResults(_KEPT_COLUMNS)
        self._maps: SharedResults[int, MapPoints] = SharedResults(_KEPT_MAPS)
        facts = (str(self.collection.folder), self.info.model_hash, self.info.shards)
        self.tag = hashlib.sha256(repr(facts).encode()).hexdigest()[:16]

    async def texts(self, texts: Sequence[str]) -> list[Vector]:
        """Return the unit-norm embeddings of texts."""
        return await self._embedder.texts(texts)

    def modality_of(self, row: int) -> str:
        """Return of what a row has an embedding: the first of the searched modalities.

        Raises:
            HttpError: 404 if there is no such row.
        """
        self.check_row(row)
        usable = (name for name, each in self.searchers.items() if each.masks.usable[row])
        return next(usable, self.searcher.modality)

    async def row_vector(self, row: int, modality: str | None = None) -> Vector:
        """Return the embedding of a row of the collection.

        Args:
            row: Its number.
            modality: What is embedded; None for the searcher's own.

        Raises:
            HttpError: 404 if there is no such row, 422 if it has no embedding.
        """
        self.check_row(row)
        modality = modality or self.searcher.modality
        if not self.searchers[modality].masks.usable[row]:
            raise HttpError(422, f"row: expected one with an embedding, got {row}, which has none")
        rows = await self._tables.run(self.collection.embeddings, np.array([row]), modality)
        vector: Vector = rows[0].astype(np.float32)
        return vector

    async def search(
        self,
        vectors: Sequence[Vector],
        weights: Sequence[float],
        filters: tuple[RowFilter, ...],
        without: frozenset[int],
        num_results: int,
        modality: str | None = None,
    ) -> SearchResult:
        """Return the rows that are most similar to a weighted sum; see ``Searcher.search``.

        Raises:
            HttpError: 422 if a weight is 0; 503 if too many queries wait.
            ConfigError: If the parts cancel each other, or a filter does not fit the collection.
        """
        if 0 in weights:
            raise HttpError(422, "weight: expected a number other than 0, got 0; omit the part")
        query = combined(np.stack(vectors), weights)
        search = self._searches[modality or self.searcher.modality]
        return await search.run(VectorQuery(query, filters, without, num_results))

    def check_modality(self, modality: str | None) -> None:
        """Refuse what cannot be searched for.

        Raises:
            HttpError: 422.
        """
        if modality is not None and modality not in self.searchers:
            known = ", ".join(self.searchers)
            raise HttpError(422, f"modality: expected one of {known}, got {modality!r}")

    async def records(self, rows: Sequence[int]) -> list[dict[str, Any]]:
        """Return what the page shows of results; see ``KeptRecords``."""
        return await self._tables.run(self._records.read, rows)

    async def record(self, row: int) -> dict[str, Any]:
        """Return all that is known of an image; see ``Searcher.records``.

        Raises:
            HttpError: 404 if there is no such row.
        """
        self.check_row(row)
        found = await self._tables.run(self.searcher.records, [row])
        return found[0]

    async def column(self, name: str) -> ColumnAnswer:
        """Return what a column holds.

        Raises:
            HttpError: 404 if there is no such column.
        """
        column = next((column for column in self.columns if column.name == name), None)
        if column is None:
            known = ", ".join(column.name for column in self.columns)
            raise HttpError(404, f"column: expected one of {known}, got {name!r}")
        return await self._columns.get(
            name, lambda: self._slow.run(describe_column, self.collection, column)
        )

    async def map_points(self, num_points: int) -> MapPoints:
        """Return positions of a sample of images, from the smallest map that has enough.

        Maps are of a few sizes, since each is a file in the collection.

        Raises:
            HttpError: 422 if no image is embedded.
        """
        if IMAGE not in self.searchers:
            raise HttpError(422, "map: expected a collection with embedded images, got none")
        size = next(size for size in _MAP_SIZES if size >= num_points)
        found = await self._maps.get(
            size, lambda: self._slow.run(map_collection, self.collection, size)
        )
        kept = evenly_spread(len(found.rows), num_points)
        return MapPoints(found.rows[kept], found.positions[kept], found.labels[kept])

    async def image(self, row: int) -> bytes:
        """Return the image file of a row, as it is in the shard.

        Raises:
            HttpError: 404 if there is no such row, or its file cannot be read.
        """
        self.check_row(row)
        return await self._images.run(self._image, row)

    async def sound(self, row: int, start: int = 0, end: int | None = None) -> bytes:
        """Return bytes of the sound file of a row, as they are in the shard.

        Args:
            row: Its number.
            start: Position of the first byte in the file.
            end: Position after the last byte; None for the end of the file.

        Raises:
            HttpError: 404 if there is no such row, or it has no sound that can be read.
        """
        self.check_row(row)
        return await self._images.run(self._sound, row, start, end)

    async def sound_bytes(self, row: int) -> int:
        """Return the size of the sound file of a row.

        Raises:
            HttpError: 404 if there is no such row, or it has no sound that can be read.
        """
        self.check_row(row)
        return await self._tables.run(self._sound_bytes, row)

    async def thumbnail(self, row: int, longer_side: int) -> bytes:
        """Return a small JPEG of the image of a row.

        Raises:
            HttpError: 404 if there is no such row, or its file cannot be read; 415 if it cannot be
                decoded.
        """
        self.check_row(row)
        kept = self._thumbnails.get((row, longer_side))
        if kept is None:
            kept = await self._images.run(self._thumbnail, row, longer_side)
            self._thumbnails.put((row, longer_side), kept)
        return kept

    def check_row(self, row: int) -> None:
        """Refuse a row that does not exist.

        Raises:
            HttpError: 404.
        """
        if not 0 <= row < len(self.collection):
            raise HttpError(404, f"row: expected 0 to {len(self.collection) - 1}, got {row}")

    def close(self) -> None:
        """Drop the work that waits."""
        for part in (self._images, self._tables, self._slow, self._embedder):
            part.close()
        for search in self._searches.values():
            search.close()

    def _image(self, row: int) -> bytes:
        try:
            return self._read_image(row)
        except (ClipkitError, OSError) as error:
            raise HttpError(404, f"image of row {row}: cannot be read: {error}") from error

    def _sound(self, row: int, start: int, end: int | None) -> bytes:
        with _reading_sound(row):
            return self._sound_files(row).read(row, start, end)

    def _sound_bytes(self, row: int) -> int:
        with _reading_sound(row):
            return self._sound_files(row).size_bytes(row)

    def _sound_files(self, row: int) -> CollectionFiles:
        if not self._sounds:
            raise HttpError(404, f"sound of row {row}: the collection has no sounds")
        return next(iter(self._sounds.values()))  # towers for sounds read the same file

    def _thumbnail(self, row: int, longer_side: int) -> bytes:
        try:
            return small_jpeg(self._image(row), longer_side, self._limits.upload_pixels)
        except SampleError as error:
            raise HttpError(415, f"image of row {row}: {error.reason}") from error


@contextmanager
def _reading_sound(row: int) -> Iterator[None]:
    try:
        yield
    except (ClipkitError, OSError) as error:
        raise HttpError(404, f"sound of row {row}: cannot be read: {error}") from error
