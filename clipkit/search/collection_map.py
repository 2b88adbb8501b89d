"""The map of a collection: positions of a sample of images, computed once and kept in a file."""

from __future__ import annotations

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Float16, Float32, Int64

from clipkit.atomic_files import new_file
from clipkit.collection import Collection
from clipkit.search.projection import project

MAX_POINTS: Final = 10_000
"""Largest number of points: all pairs of them are compared."""
_FILE: Final = "map-{}.npz"
_VERSION: Final = b"1"  # changes with the positions that the projection returns


@dataclass(frozen=True, slots=True)
class MapPoints:
    """Positions of P images on a plane.

    Args:
        rows: Their rows in the collection, in ascending order.
        positions: From -1 to 1 on the longer axis.
        labels: Numbers of their classes; -1 for an image without one.
    """

    rows: Int64[np.ndarray, " points"]
    positions: Float32[np.ndarray, "points 2"]
    labels: Int64[np.ndarray, " points"]


def map_collection(collection: Collection, num_points: int = 5000) -> MapPoints:
    """Place a sample of the images of a collection, spread evenly over its rows, on a plane.

    The positions are kept in the collection as ``map-NUM_POINTS.npz`` and read from there until an
    embedding of the sample changes; a folder that cannot be written is left as it is.

    Args:
        collection: The collection.
        num_points: Largest number of points, 1 to 10,000; images without embedding have none.

    Raises:
        DataError: If a file of the collection is missing or damaged.

    Examples:
        >>> map_collection(Collection("collection")).positions.shape
        (8, 2)
    """
    rows = evenly_spread(len(collection), min(num_points, MAX_POINTS))
    embeddings = collection.images(rows)
    usable = np.abs(embeddings).max(axis=1, initial=0) > 0
    rows, embeddings = rows[usable], embeddings[usable]
    labels = collection.table(["label"], rows).column("label").fill_null(-1)
    path = collection.folder / _FILE.format(num_points)
    return MapPoints(rows, _positions(path, rows, embeddings), np.asarray(labels, dtype=np.int64))


def evenly_spread(num_rows: int, num_chosen: int) -> Int64[np.ndarray, " chosen"]:
    """Return rows in ascending order, one from the middle of each of equal parts.

    Examples:
        >>> evenly_spread(9, 3).tolist(), evenly_spread(2, 3).tolist()
        ([1, 4, 7], [0, 1])
    """
    num_chosen = min(num_rows, num_chosen)
    parts = np.arange(num_chosen, dtype=np.int64)
    return (2 * parts + 1) * num_rows // (2 * max(num_chosen, 1))


def _positions(
    path: Path, rows: Int64[np.ndarray, " points"], embeddings: Float16[np.ndarray, "points D"]
) -> Float32[np.ndarray, "points 2"]:
    digest = hashlib.sha256(_VERSION + rows.tobytes() + embeddings.tobytes()).hexdigest()
    positions = _read(path, digest, len(rows))
    if positions is None:
        positions = project(embeddings.astype(np.float32))
        _write(path, digest, positions)
    return positions


def _read(path: Path, digest: str, num_points: int) -> Float32[np.ndarray, "points 2"] | None:
    """Read positions; None if there are none, or those of other embeddings or a damaged file."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found, positions = str(file["digest"]), file["positions"]
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile):
        return None
    fits = positions.dtype == np.float32 and positions.shape == (num_points, 2)
    is_usable = found == digest and fits and bool(np.isfinite(positions).all())
    return np.asarray(positions) if is_usable else None


def _write(path: Path, digest: str, positions: Float32[np.ndarray, "points 2"]) -> None:
    try:
        with new_file(path) as temporary, temporary.open("wb") as file:
            np.savez(file, digest=np.array(digest), positions=positions)
    except OSError:
        return  # a collection that is read-only, or a full disk: computed again the next time
