"""Cues and the images that people associate with them, as WinoGAViL has them.

::

    ROOT/winogavil_dataset.csv            columns cue, candidates, associations; the latter two are
                                          lists of names, in JSON
    ROOT/winogavil_images/NAME.jpg        or winogavil_images.zip with these files
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, final
from zipfile import BadZipFile, ZipFile

from clipkit.addresses import is_local, local_path
from clipkit.data.packing.hub import download_files, hub_address
from clipkit.data.packing.items import read_file
from clipkit.data.packing.roots import refuse_outside
from clipkit.data.packing.sources import tables_in
from clipkit.data.packing.tables.parts import open_parts, parts_of
from clipkit.data.packing.tables.row_files import TableRows
from clipkit.errors import DataError, SampleError
from clipkit.evaluation.datasets.dataset import EvaluationSample
from clipkit.evaluation.datasets.queries import IMAGES
from clipkit.evaluation.outcomes.outcomes import distinct_keys
from clipkit.types import IGNORE_LABEL

_IMAGES: Final = "winogavil_images"
_COLUMNS: Final = ("cue", "candidates", "associations")


@dataclass(frozen=True, slots=True)
class AssociationRow:
    """A cue and its candidates.

    Args:
        key: Name of the instance.
        cue: Text, such as a word.
        candidates: Distinct names of images to choose from.
        associations: Those candidates that belong to the cue: at least one, and not all.
    """

    key: str
    cue: str
    candidates: tuple[str, ...]
    associations: tuple[str, ...]


@final
class AssociationData:
    """Instances of the choice of the images that belong to a cue.

    Args:
        name: Name of the data in messages.
        rows: The instances.
        root: Folder that contains ``winogavil_images`` or ``winogavil_images.zip``.
    """

    index = None

    def __init__(self, name: str, rows: Sequence[AssociationRow], root: Path) -> None:
        self.name = name
        self.rows = tuple(rows)
        self._root = root

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, number: int) -> str:
        """Return the name of an instance."""
        return self.rows[number].key

    def texts(self, number: int) -> tuple[str, ...]:
        """Return the cue and the names of the candidates, then those of the associations."""
        row = self.rows[number]
        return (row.cue, *row.candidates, *row.associations)

    def image(self, name: str) -> bytes:
        """Return the image file of a candidate."""
        path = image_path(self._root, name)
        archive = self._root / f"{_IMAGES}.zip"
        if path.parent.is_dir() or not archive.is_file():
            return read_file(path)
        member = f"{_IMAGES}/{path.name}"
        try:
            return _archive(archive, os.getpid()).read(member)
        except KeyError as error:
            raise SampleError("no such image", key=f"{archive}/{member}") from error
        except (BadZipFile, OSError, EOFError, ValueError) as error:
            raise SampleError(f"cannot be read: {error}", key=f"{archive}/{member}") from error


def image_path(root: Path, name: str) -> Path:
    """Return where the image of a candidate is."""
    return root / _IMAGES / f"{name}.jpg"


@lru_cache(maxsize=2)
def _archive(path: Path, process: int) -> ZipFile:  # noqa: ARG001
    """Open an archive once per process: a forked worker must not share the position in a file."""
    return ZipFile(path)


@final
class AssociationImages:
    """Each image of some instances once, as ``embed_pairs`` reads them.

    Args:
        data: The instances.
        rows: Those whose images are read.
    """

    index = None
    variant = "associations"
    modality = IMAGES

    def __init__(self, data: AssociationData, rows: Sequence[AssociationRow]) -> None:
        self.name = data.name
        self.identity = (self.variant, id(data), len(rows))
        self.names = tuple(dict.fromkeys(name for row in rows for name in row.candidates))
        self._data = data

    def __len__(self) -> int:
        return len(self.names)

    def sample(self, sample_id: int) -> EvaluationSample:
        """Return an image."""
        name = self.names[sample_id]
        return EvaluationSample(name, self._data.image(name), (), IGNORE_LABEL)


def open_associations(source: str | Path, allow_outside: bool = False) -> AssociationData:
    """Open cues and candidate images in WinoGAViL's form.

    Args:
        source: Folder with the table and the images, or its table (CSV, TSV, Parquet), or
            ``hf://datasets/OWNER/NAME[@REVISION]`` for a repository with the same files.
        allow_outside: Whether images may be outside of the folder of the table.

    Raises:
        DataError: If there is no table, it lacks a column, or a row has no choice.

    Examples:
        >>> data = open_associations("associations")
        >>> data.rows[0].cue, data.rows[0].associations
        ('sky', ('blue',))
    """
    files = _tables(source)
    rows = _rows(open_parts(files))
    if not rows:
        raise DataError(f"{files[0]}: no samples found")
    root = files[0].parent
    if not allow_outside:
        names = dict.fromkeys(name for row in rows for name in row.candidates)
        refuse_outside((image_path(root, name) for name in names), root, files[0])
    return AssociationData(files[0].name, rows, root)


def _tables(source: str | Path) -> list[Path]:
    """Return the files of the table of a source."""
    if (address := hub_address(source)) is not None:
        path = download_files(address, ["*.csv", "*.parquet", f"{_IMAGES}.zip"])
    elif is_local(str(source)):
        path = local_path(str(source))
    else:
        raise DataError(f"{source}: expected a folder or table of this machine, or hf://datasets/…")
    files = [path] if path.is_file() else parts_of(tables_in(path)) if path.is_dir() else []
    if not files:
        raise DataError(
            f"{source}: expected one table with the columns {', '.join(_COLUMNS)}, such as "
            f"winogavil_dataset.csv, next to {_IMAGES} or {_IMAGES}.zip; got none or several"
        )
    return files


def _rows(parts: Sequence[TableRows]) -> list[AssociationRow]:
    """Read all instances; a key that occurs again gets a number."""
    rows: list[AssociationRow] = []
    for part in parts:
        if missing := [name for name in _COLUMNS if name not in part.columns]:
            raise DataError(
                f"{part.where}: expected the columns {', '.join(_COLUMNS)}; {', '.join(missing)} "
                f"missing, got {', '.join(part.columns)}"
            )
        for at, row in enumerate(part.rows(())):
            with _row_errors(f"{part.where}: row {at + 1}"):
                rows.append(_row(row, f"row{len(rows) + 1}"))
    keys = distinct_keys([row.key for row in rows])
    return [replace(row, key=key) for row, key in zip(rows, keys, strict=True)]


def _row(row: Mapping[str, Any], key: str) -> AssociationRow:
    cue = row["cue"]
    candidates, associations = _names(row["candidates"]), _names(row["associations"])
    if not isinstance(cue, str) or not cue.strip():
        raise ValueError(f"no cue: {cue!r}")
    if not 0 < len(associations) < len(candidates) or not set(associations) <= set(candidates):
        raise ValueError(f"candidates {candidates}, associations {associations}")
    key = next((str(row[name]) for name in ("ID", "id") if row.get(name) is not None), key)
    return AssociationRow(key, cue.strip(), candidates, associations)


def _names(cell: Any) -> tuple[str, ...]:
    """Return a list of distinct names, as JSON or as a list of Parquet."""
    names = json.loads(cell) if isinstance(cell, str) else cell
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"no list of names: {cell!r}")
    if len(set(names)) != len(names):
        raise ValueError(f"a name twice: {cell!r}")
    return tuple(names)


@contextmanager
def _row_errors(where: str) -> Iterator[None]:
    try:
        yield
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{where}: expected a cue, a list of distinct candidates, and a list with some of them "
            f"as associations; got {error}"
        ) from error
