"""One index file for a complete data set, which a run opens instead of asking for every shard.

NumPy's ``.npz`` without pickled objects. It contains addresses, counts, sizes, versions and digests
of the shards; positions of samples are in the sidecar file of each shard.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np

from clipkit.addresses import has_scheme
from clipkit.atomic_files import write_bytes
from clipkit.data.shards.counts import named_by_index
from clipkit.data.shards.repeats import refuse_repeats
from clipkit.data.shards.shard import MAX_SAMPLES, Shard
from clipkit.data.storage.cache import SIDECAR_SUFFIX, ShardCache, read_small_file
from clipkit.data.storage.urls import Address
from clipkit.errors import DataError

INDEX_SUFFIX: Final = ".npz"
_FORMAT: Final = "clipkit data set index 1"
_TEXTS: Final = ("names", "stamps", "digests")
_NUMBERS: Final = ("num_samples", "size_bytes")


def is_index_file(address: Address) -> bool:
    """Return whether an address names the index file of a data set."""
    name = address.name
    return (
        address.kind != "pipe" and name.endswith(INDEX_SUFFIX) and not name.endswith(SIDECAR_SUFFIX)
    )


def write_index_file(shards: Sequence[Shard], path: Path) -> None:
    """Write the index file of a data set.

    Shards in the folder of the file, or below it, are named relative to it, so that all of them can
    be moved or uploaded together.

    Args:
        shards: All shards, in order.
        path: The file, ending in ``.npz``.

    Raises:
        DataError: If the name does not end in ``.npz``, or is that of a shard's own index file, or
            a shard has no samples.
    """
    check_index_name(path)
    for shard in shards:
        _check_number(path, shard.url, shard.num_samples)
    folder = path.resolve().parent
    columns: dict[str, Any] = {
        "format": np.array(_FORMAT),
        "num_samples": np.array([shard.num_samples for shard in shards], dtype=np.int64),
        "size_bytes": np.array([shard.size_bytes for shard in shards], dtype=np.int64),
    }
    texts = {
        "names": [_name_from(folder, shard.address) for shard in shards],
        "stamps": [shard.stamp for shard in shards],
        "digests": [shard.digest for shard in shards],
    }
    for column, values in texts.items():
        # Not an array of texts: each would take four bytes for every letter of the longest.
        joined = "\0".join(values).encode("utf-8", "surrogateescape")
        columns[column] = np.frombuffer(joined, dtype=np.uint8)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **columns)
    write_bytes(path, buffer.getvalue())


def check_index_name(path: Path) -> None:
    """Check the name of a new index file of a data set."""
    if path.suffix != INDEX_SUFFIX or path.name.endswith(SIDECAR_SUFFIX):
        raise DataError(f"{path}: expected a name ending in {INDEX_SUFFIX}, such as train.npz")


def read_index_file(source: Address, cache: ShardCache | None = None) -> list[Shard]:
    """Read the shards of an index file.

    Raises:
        DataError: If the file is missing, damaged, or of another kind, or names a command or, if it
            is remote, a file of this machine.
    """
    data = read_small_file(source, cache)
    if data is None:
        raise DataError(f"{source}: no such file")
    columns = _columns(data, source)
    names, stamps, digests = (columns[name] for name in _TEXTS)
    counts, sizes = (columns[name].tolist() for name in _NUMBERS)
    addresses = _addresses(names, source)
    # Times of change are of the machine that wrote the file; sizes hold everywhere.
    is_moved = [not source.is_local and not has_scheme(name) for name in names]
    shards = [
        Shard(address, count, size, "" if moved else stamp, digest)
        for address, count, size, stamp, digest, moved in zip(
            addresses, counts, sizes, stamps, digests, is_moved, strict=True
        )
    ]
    if len(set(addresses)) < len(addresses):
        refuse_repeats(addresses)
    return shards


def _addresses(names: Sequence[str], source: Address) -> list[Address]:
    """Return the addresses of entries; relative names, of which there are many, in one step."""
    folder = source.folder
    assert folder is not None, f"{source} is read from a file"
    prefix = "" if folder.text == "." else f"{folder.text.rstrip('/')}/"
    return [
        named_by_index(name, source)
        if name.startswith("/") or ":" in name
        else Address(prefix + name, folder.kind)
        for name in names
    ]


def _name_from(folder: Path, address: Address) -> str:
    if not address.is_local:
        return address.text
    path = _real(address.path.parent) / address.path.name
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else str(path)


@lru_cache(maxsize=16)
def _real(folder: Path) -> Path:
    return folder.resolve()


def _columns(data: bytes, source: Address) -> dict[str, Any]:
    """Read and check the columns: texts as lists, numbers as arrays."""
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            if str(stored["format"]) != _FORMAT:
                raise DataError(f"{source}: expected {_FORMAT!r}, got {str(stored['format'])!r}")
            columns: dict[str, Any] = {name: stored[name] for name in _NUMBERS}
            for name in _TEXTS:
                text = stored[name].tobytes().decode("utf-8", "surrogateescape")
                columns[name] = text.split("\0")
    except DataError:
        raise
    except Exception as error:
        # Damage in a zip or an array's header raises nearly anything.
        raise DataError(
            f"{source}: not a complete index of a data set ({error or type(error).__name__}); "
            f"write it again: clipkit shards index SHARDS --output FILE{INDEX_SUFFIX}"
        ) from error
    _check_columns(columns, source)
    return columns


def _check_number(index: Address | Path, shard: str, count: int) -> None:
    """Check a number of samples."""
    if not 1 <= count < MAX_SAMPLES:
        raise DataError(
            f"{index}: {shard}: expected a number of samples, at least 1, got {count}; index the "
            f"shard again"
        )


def _check_columns(columns: dict[str, Any], source: Address) -> None:
    lengths = {len(column) for column in columns.values()}
    are_numbers = all(columns[n].dtype == np.int64 and columns[n].ndim == 1 for n in _NUMBERS)
    if len(lengths) != 1 or not are_numbers:
        raise DataError(f"{source}: columns of an index do not match; write it again")
    counts = columns["num_samples"]
    for number in np.flatnonzero((counts < 1) | (counts >= MAX_SAMPLES))[:1].tolist():
        _check_number(source, columns["names"][number], int(counts[number]))
