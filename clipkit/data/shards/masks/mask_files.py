"""The file of a mask: a NumPy ``.npz`` of three arrays of bytes, none of them pickled.

- ``info``: a JSON object in UTF-8 with ``format``, ``num_samples``, ``filters``,
  ``index_fingerprint`` and ``index_digest``;
- ``kept``: one bit per sample, the first sample in the lowest bit of the first byte; 1 = kept;
- ``reasons``: for each removed sample, in order, the number of the filter that removed it, from 1.

``kept`` is not compressed, so that the size of the file limits what a reader allocates.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

import numpy as np
from jaxtyping import UInt8

from clipkit.atomic_files import new_file
from clipkit.data.shards.masks.kept_samples import num_ones
from clipkit.data.storage.cache import read_small_file
from clipkit.data.storage.urls import Address
from clipkit.errors import DataError, first_line

MASK_SUFFIX: Final = ".npz"
MAX_FILTERS: Final = 255
_FORMAT: Final = "clipkit-mask-1"
_MAX_INFO_BYTES: Final = 2**22
_MAX_TEXT_LENGTH: Final = 1000
_DATE: Final = (1980, 1, 1, 0, 0, 0)  # equal masks are equal files


@dataclass(frozen=True, slots=True, eq=False)
class MaskContent:
    """What a mask says, without the reasons.

    Args:
        num_samples: Number of samples of the data.
        bits: One bit per sample, the first in the lowest bit of the first byte; 1 = kept.
        filters: Description of each filter.
        index_fingerprint: ``ShardIndex.fingerprint`` of the data.
        index_digest: ``ShardIndex.digest`` of the data; "" if it is not known.
        num_removed: Number of samples that are not kept.
    """

    num_samples: int
    bits: UInt8[np.ndarray, " bytes"]
    filters: tuple[str, ...]
    index_fingerprint: str
    index_digest: str
    num_removed: int


def write_mask(path: Path, content: MaskContent, reasons: UInt8[np.ndarray, " removed"]) -> None:
    """Write the file of a mask, completely or not at all.

    Raises:
        DataError: If the name does not end in ``.npz``.
    """
    if path.suffix != MASK_SUFFIX:
        raise DataError(f"{path}: expected a name ending in {MASK_SUFFIX}, such as train.mask.npz")
    info = {
        "format": _FORMAT,
        "num_samples": content.num_samples,
        "filters": list(content.filters),
        "index_fingerprint": content.index_fingerprint,
        "index_digest": content.index_digest,
    }
    members = {
        "info": (np.frombuffer(json.dumps(info).encode(), dtype=np.uint8), zipfile.ZIP_STORED),
        "kept": (content.bits, zipfile.ZIP_STORED),
        "reasons": (reasons, zipfile.ZIP_DEFLATED),
    }
    with new_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, (array, compression) in members.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _DATE)
            entry.compress_type = compression
            with archive.open(entry, "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def read_mask(source: Address) -> MaskContent:
    """Read the file of a mask, without the reasons.

    Raises:
        DataError: If the file is missing, damaged, too large for what it says, or of another kind.
    """
    with _archive(source) as (archive, size_bytes):
        content = _content(archive, size_bytes)
        shape, _ = _header(archive, "reasons")
        if shape != (content.num_removed,):
            raise DataError(
                f"reasons: expected {content.num_removed} for as many removed samples, got "
                f"shape {list(shape)}"
            )
    return content


def read_reasons(source: Address, content: MaskContent) -> UInt8[np.ndarray, " removed"]:
    """Read the reasons of a mask that was read before.

    Raises:
        DataError: As ``read_mask`` does, and if the file now contains another mask.
    """
    with _archive(source) as (archive, size_bytes):
        if not np.array_equal(_content(archive, size_bytes).bits, content.bits):
            raise DataError("the file has changed since it was read; read it again")
        reasons = _array(archive, "reasons", content.num_removed)
    if len(reasons) and not 1 <= reasons.min() <= reasons.max() <= len(content.filters):
        raise DataError(
            f"{source}: reasons: expected numbers from 1 to {len(content.filters)} (the filters), "
            f"got {reasons.min()} to {reasons.max()}; write the mask again"
        )
    return reasons


@contextmanager
def _archive(source: Address) -> Iterator[tuple[zipfile.ZipFile, int]]:
    """Open the file; any damage of it is an error that names it."""
    with _file(source) as (file, size_bytes):
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive, size_bytes
        except MemoryError:
            raise
        except Exception as error:
            # Damage in a zip, an array's header or JSON raises nearly anything.
            raise DataError(
                f"{source}: not a complete mask of samples ({first_line(error)}); write it again: "
                f"clipkit shards filter, or SampleMask.save"
            ) from error


@contextmanager
def _file(source: Address) -> Iterator[tuple[BinaryIO, int]]:
    if not source.is_local:
        data = read_small_file(source)
        if data is None:
            raise DataError(f"{source}: no such file")
        yield io.BytesIO(data), len(data)
        return
    try:
        if not source.path.is_file():
            raise DataError(
                f"{source}: expected the file of a mask, got "
                f"{'a folder or device' if source.path.exists() else 'none: no such file'}"
            )
        file = source.path.open("rb")
        size_bytes = source.path.stat().st_size
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"{source}: cannot be read: {reason}") from error
    with file:
        yield file, size_bytes


def _content(archive: zipfile.ZipFile, size_bytes: int) -> MaskContent:
    info = _info(archive)
    num_samples = info["num_samples"]
    if type(num_samples) is not int or num_samples < 1:
        raise DataError(f"num_samples: expected a number of at least 1, got {num_samples!r}")
    entry = archive.getinfo("kept.npy")
    if entry.compress_type != zipfile.ZIP_STORED:
        raise DataError("kept: expected an array without compression; write it with numpy.savez")
    if not num_samples <= 8 * entry.file_size <= 8 * size_bytes:
        raise DataError(
            f"kept: {entry.file_size} bytes in a file of {size_bytes} bytes for {num_samples} "
            f"samples of one bit each"
        )
    bits = _array(archive, "kept", -(-num_samples // 8))
    if num_samples % 8 and bits[-1] >> num_samples % 8:
        raise DataError("kept: expected zeros after the last sample")
    num_removed = num_samples - num_ones(bits)
    filters = _filters(info["filters"])
    if num_removed and not filters:
        raise DataError("filters: expected a description of each filter, got none")
    fingerprint, digest = info["index_fingerprint"], info["index_digest"]
    if not isinstance(fingerprint, str) or not isinstance(digest, str) or not fingerprint:
        raise DataError("index_fingerprint and index_digest: expected texts")
    return MaskContent(num_samples, bits, filters, fingerprint, digest, num_removed)


def _info(archive: zipfile.ZipFile) -> dict[str, Any]:
    if "info.npy" not in archive.namelist():
        raise DataError(f"expected arrays info, kept and reasons, got {archive.namelist()[:5]}")
    shape, size_bytes = _header(archive, "info")
    if size_bytes > _MAX_INFO_BYTES:
        raise DataError(f"info: expected at most {_MAX_INFO_BYTES} bytes, got {size_bytes}")
    info = json.loads(_array(archive, "info", *shape).tobytes())
    if not isinstance(info, dict) or info.get("format") != _FORMAT:
        found = info.get("format") if isinstance(info, dict) else info
        raise DataError(f"expected format {_FORMAT!r}, got {str(found)[:100]!r}")
    names = ("num_samples", "filters", "index_fingerprint", "index_digest")
    if missing := [name for name in names if name not in info]:
        raise DataError(f"info: {', '.join(missing)} missing")
    return info


def _filters(filters: object) -> tuple[str, ...]:
    if not isinstance(filters, list) or len(filters) > MAX_FILTERS:
        raise DataError(f"filters: expected a list of at most {MAX_FILTERS} texts")
    for text in filters:
        check_filter(text)
    return tuple(filters)


def check_filter(text: object) -> None:
    """Check the description of a filter: it is printed, and shown on pages.

    Raises:
        DataError: If it is no printable text of some length.
    """
    if (
        not isinstance(text, str)
        or not text.isprintable()
        or not 1 <= len(text) <= _MAX_TEXT_LENGTH
    ):
        raise DataError(
            f"filters: expected printable texts of 1 to {_MAX_TEXT_LENGTH} characters, got "
            f"{text!r:.100}"
        )


def _header(archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], int]:
    """Return the shape of an array of bytes, and the size of its member."""
    entry = archive.getinfo(f"{name}.npy")
    with archive.open(entry) as member:
        shape = _shape(member, name)
    return shape, entry.file_size


def _array(archive: zipfile.ZipFile, name: str, *expected: int) -> UInt8[np.ndarray, " bytes"]:
    """Read an array of bytes of a known length."""
    with archive.open(f"{name}.npy") as member:
        shape = _shape(member, name)
        if shape != expected or len(shape) != 1:
            raise DataError(f"{name}: expected shape {list(expected)}, got {list(shape)}")
        data = member.read(shape[0])
        if len(data) != shape[0] or member.read(1):
            raise DataError(f"{name}: expected {shape[0]} bytes of content, got another number")
    return np.frombuffer(data, dtype=np.uint8)


def _shape(member: Any, name: str) -> tuple[int, ...]:
    # A header of a later version may have 4 GB, which NumPy reads before it looks.
    if (version := np.lib.format.read_magic(member)) != (1, 0):
        raise DataError(f"{name}: expected version 1.0 of NumPy's format, got {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(member)
    if dtype != np.uint8:
        raise DataError(f"{name}: expected uint8, got {dtype}")
    return tuple(shape)
