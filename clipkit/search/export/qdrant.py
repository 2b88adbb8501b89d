"""Export a collection to Qdrant, a database of vectors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Final, final

import numpy as np

from clipkit.collection import Collection
from clipkit.errors import ConfigError, DataError, first_line
from clipkit.search.export.shard_export import ShardExport, read_shard
from clipkit.search.records import class_name_of
from clipkit.search.usable_rows import usable_rows

API_KEY_VARIABLE: Final = "QDRANT_API_KEY"
_BATCH_POINTS: Final = 256
_COLUMNS: Final = ("key", "captions", "label", "image_offset_bytes", "image_size_bytes")
_TIMEOUT_SECONDS: Final = 60
_ROUNDING: Final = 2e-3
"""Largest difference of a component of a vector that was stored as float16."""


@dataclass(frozen=True, slots=True)
class QdrantReport:
    """Result of an export.

    Args:
        num_points: Number of points in the collection of Qdrant.
        num_kept: Number of them that were there before.
    """

    num_points: int
    num_kept: int


@contextmanager
def qdrant_client(url: str) -> Iterator[Any]:
    """Connect to a server, for the time of a block.

    The API key is that of the environment, ``QDRANT_API_KEY``.

    Args:
        url: Address of the server, such as ``http://localhost:6333``.

    Raises:
        ConfigError: If qdrant-client is not installed, or the address is none.
        DataError: If the server does not answer, or refuses.
    """
    package = _imported()
    key = os.environ.get(API_KEY_VARIABLE) or None
    try:
        client = package.QdrantClient(url=url, api_key=key, timeout=_TIMEOUT_SECONDS)
    except ValueError as error:
        raise ConfigError(
            f"--url: expected an address such as http://localhost:6333: {error}"
        ) from error
    from qdrant_client.http.exceptions import ApiException

    try:
        yield client
    except (ApiException, OSError) as error:
        raise DataError(
            f"{url}: {first_line(error)}; the same command continues; a key is read from "
            f"{API_KEY_VARIABLE}"
        ) from error
    finally:
        client.close()


def export_qdrant(
    collection: Collection,
    client: Any,
    name: str,
    on_progress: Callable[[int, int | None], None] | None = None,
) -> QdrantReport:
    """Write the images of a collection as points, or those that are missing.

    The id of a point is the row of the sample, its vector the embedding in float16. Vectors are
    compared by their dot product, which is the cosine similarity of unit vectors. The payload has
    ``key``, ``captions``, ``label``, ``class_name``, ``shard`` (address of the tar),
    ``image_offset_bytes``, ``image_size_bytes``, and the further columns of the collection. Samples
    without an embedding are left out.

    Points are written in the order of the rows, so that an export that was stopped is continued
    after the last one.

    Args:
        collection: The collection.
        client: A ``qdrant_client.QdrantClient``.
        name: Name of the collection in Qdrant.
        on_progress: Called with the numbers of completed and of all samples; None for no call.

    Raises:
        ConfigError: If there is a collection of that name with other points.
        DataError: If a file of the collection is missing or damaged.
    """
    rows = np.flatnonzero(usable_rows(collection))
    writer = _PointWriter(collection, client, name)
    writer.create()
    kept = writer.num_present(rows)
    first_row = int(rows[kept]) if kept < len(rows) else len(collection)
    for number in range(len(collection.shards)):
        if collection.starts[number + 1] > first_row:
            writer.write(read_shard(collection, number, writer.columns, first_row), number)
        if on_progress is not None:
            on_progress(int(collection.starts[number + 1]), len(collection))
    writer.check_count(len(rows))
    return QdrantReport(len(rows), kept)


@final
class _PointWriter:
    """Writes points to one collection of Qdrant."""

    def __init__(self, collection: Collection, client: Any, name: str) -> None:
        self._collection = collection
        self._client = client
        self._name = name
        self._models = _imported().models
        self.columns = (*_COLUMNS, *collection.info.columns)

    def create(self) -> None:
        """Create the collection of Qdrant, or check that it is for vectors like these."""
        models, width = self._models, self._collection.info.embedding_dim
        if not self._client.collection_exists(self._name):
            self._client.create_collection(
                self._name,
                vectors_config=models.VectorParams(
                    size=width,
                    distance=models.Distance.DOT,
                    on_disk=True,
                    datatype=models.Datatype.FLOAT16,
                ),
            )
            return
        vectors = self._client.get_collection(self._name).config.params.vectors
        known = (getattr(vectors, "size", None), getattr(vectors, "distance", None))
        if known != (width, models.Distance.DOT):
            raise self._other(f"vectors of {known[0]} components compared by {known[1]}")

    def num_present(self, rows: np.ndarray) -> int:
        """Return how many of the rows, from the first on, have a point; compare the outermost."""
        low, high = 0, len(rows)
        while low < high:
            middle = (low + high) // 2
            if self._client.retrieve(self._name, [int(rows[middle])], with_payload=False):
                low = middle + 1
            else:
                high = middle
        for row in {int(rows[0]), int(rows[low - 1])} if low else ():
            self._compare(row)
        return low

    def write(self, shard: ShardExport, number: int) -> None:
        """Write the points of a shard, and wait for each batch."""
        columns = {name: shard.values(name) for name in self.columns}
        for start in range(0, len(shard.rows), _BATCH_POINTS):
            stop = min(start + _BATCH_POINTS, len(shard.rows))
            batch = self._models.Batch(
                ids=shard.rows[start:stop].tolist(),
                vectors=shard.images[start:stop].astype(np.float32).tolist(),
                payloads=[self._payload(columns, place, number) for place in range(start, stop)],
            )
            self._client.upsert(self._name, batch, wait=True)

    def check_count(self, expected: int) -> None:
        """Refuse further points, which are those of other samples."""
        count = self._client.count(self._name, exact=True).count
        if count != expected:
            raise self._other(f"{count} points")

    def _payload(self, columns: dict[str, list[Any]], place: int, number: int) -> dict[str, Any]:
        info = self._collection.info
        values = {name: column[place] for name, column in columns.items()}
        return {
            **values,
            "class_name": class_name_of(info, values["label"]),
            "shard": info.shards[number].url,
        }

    def _compare(self, row: int) -> None:
        points = self._client.retrieve(self._name, [row], with_vectors=True)
        if not points:
            return  # removed since
        key = self._collection.table(["key"], np.array([row])).column("key")[0].as_py()
        if points[0].payload.get("key") != key:
            raise self._other(f"the key {points[0].payload.get('key')!r} as point {row}")
        own = self._collection.images(np.array([row]))[0].astype(np.float32)
        if not np.allclose(np.asarray(points[0].vector), own, atol=_ROUNDING):
            raise self._other(f"another vector as point {row}")

    def _other(self, found: str) -> ConfigError:
        return ConfigError(
            f"--name: Qdrant has a collection {self._name!r} with {found}; expected that of "
            f"{self._collection.folder}; choose another name, or delete it"
        )


def _imported() -> ModuleType:
    try:
        import qdrant_client
    except ImportError as error:
        raise ConfigError(
            "--format qdrant needs qdrant-client, which is not installed; "
            "pip install 'clipkit[qdrant]'"
        ) from error
    module: ModuleType = qdrant_client
    return module
