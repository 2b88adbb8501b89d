"""Pieces of tensors in safetensors files: written as a stream, read by ranges of bytes.

The files are those of ``torch.distributed.checkpoint``: each tensor is a piece, and the header has
the position of every piece in its complete tensor. Other programs that read safetensors see the
pieces as tensors.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

import torch
from torch import Tensor

from clipkit.errors import CheckpointError

_DTYPES: Final = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
_NAMES: Final = {dtype: name for name, dtype in _DTYPES.items()}
_POSITIONS: Final = "DCP_SHARDING_INFO"
_LENGTH_BYTES: Final = 8
_MAX_HEADER_BYTES: Final = 1 << 28
_CHUNK_BYTES: Final = 1 << 24


@dataclass(frozen=True, slots=True)
class Piece:
    """A rectangular piece of a tensor.

    Args:
        offsets: Index of its first element in the complete tensor, one number per axis.
        values: Elements, of any shape.
    """

    offsets: tuple[int, ...]
    values: Tensor


@dataclass(frozen=True, slots=True)
class StoredPiece:
    """Position of a piece in a file.

    Args:
        offsets: Index of its first element in the complete tensor.
        shape: Shape.
        dtype: Data type.
        start: Position of its first byte in the file.
    """

    offsets: tuple[int, ...]
    shape: tuple[int, ...]
    dtype: torch.dtype
    start: int

    @property
    def end(self) -> tuple[int, ...]:
        """Smallest shape of the complete tensor."""
        return tuple(a + b for a, b in zip(self.offsets, self.shape, strict=True))

    def rows(self, low: tuple[int, ...], high: tuple[int, ...]) -> range:
        """Return the rows (indices of the first axis) that a box of the complete tensor needs.

        Args:
            low: Index of the first element of the box.
            high: Index behind its last one.
        """
        spans = list(zip(low, high, self.offsets, self.end, strict=True))
        if any(max(a, c) >= min(b, d) for a, b, c, d in spans):
            return range(0)
        if not spans:
            return range(1)
        a, b, c, d = spans[0]
        return range(max(a, c) - c, min(b, d) - c)

    def byte_range(self, rows: range) -> tuple[int, int]:
        """Return the positions in the file of the first byte of some rows, and behind the last."""
        row_bytes = math.prod(self.shape[1:]) * self.dtype.itemsize
        return self.start + rows.start * row_bytes, self.start + rows.stop * row_bytes


def write_pieces(file: BinaryIO, pieces: Mapping[str, Piece]) -> tuple[int, int]:
    """Write a safetensors file, and return its length in bytes and its CRC-32.

    Nothing is copied but what is not contiguous, and the interpreter's lock is free during writes.

    Args:
        file: Open file; it need not be seekable.
        pieces: Pieces by key.
    """
    length, checksum = 0, 0
    for block in _blocks(pieces):
        for start in range(0, len(block), _CHUNK_BYTES):
            chunk = block[start : start + _CHUNK_BYTES]
            file.write(chunk)
            length, checksum = length + len(chunk), zlib.crc32(chunk, checksum)
    return length, checksum


def header_length(start: bytes, where: str) -> int:
    """Return the length of the header of a file from the first 8 bytes of the file."""
    length = int.from_bytes(start, "little")
    if len(start) != _LENGTH_BYTES or length > _MAX_HEADER_BYTES:
        raise CheckpointError(f"{where}: expected a safetensors file, got another one")
    return length


def parse_header(header: bytes, where: str) -> dict[str, StoredPiece]:
    """Return the pieces of a file from its header.

    Raises:
        CheckpointError: If the header is not one of ``write_pieces``, or contradicts itself.
    """
    try:
        entries: dict[str, Any] = json.loads(header)
        metadata = entries.pop("__metadata__", {})
        positions = json.loads(metadata.get(_POSITIONS, "{}"))
        start = _LENGTH_BYTES + len(header)
        return {
            key: _stored(entry, positions.get(key, {}).get("saved_offsets"), start)
            for key, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{where}: expected the header of a safetensors file, got a damaged one: {error}"
        ) from error


def copy_rows(
    piece: StoredPiece, rows: range, data: bytes, target: Tensor, low: tuple[int, ...]
) -> None:
    """Copy rows of a piece to the elements of a tensor that they are.

    Args:
        piece: The piece.
        rows: Rows of it.
        data: Bytes of the rows.
        target: Box of the complete tensor, on any device.
        low: Index of the first element of the box in the complete tensor.
    """
    values = torch.frombuffer(bytearray(data), dtype=piece.dtype)
    values = values.view(len(rows), *piece.shape[1:]) if piece.shape else values.view(())
    if not piece.shape:
        target.copy_(values)
        return
    offsets = (piece.offsets[0] + rows.start, *piece.offsets[1:])
    into, out = [], []
    for axis, size in enumerate(values.shape):
        first = max(offsets[axis], low[axis])
        last = min(offsets[axis] + size, low[axis] + target.shape[axis])
        into.append(slice(first - low[axis], last - low[axis]))
        out.append(slice(first - offsets[axis], last - offsets[axis]))
    target[tuple(into)].copy_(values[tuple(out)])


def _blocks(pieces: Mapping[str, Piece]) -> Iterator[memoryview]:
    """Yield the header, then the values of each piece."""
    # the widest type first, so that every piece begins at a multiple of its elements' size
    order = sorted(pieces, key=lambda key: (-pieces[key].values.element_size(), key))
    entries: dict[str, Any] = {}
    end = 0
    for key in order:
        values = pieces[key].values
        start, end = end, end + values.numel() * values.element_size()
        entries[key] = {
            "dtype": _NAMES[values.dtype],
            "shape": list(values.shape),
            "data_offsets": [start, end],
        }
    positions = {key: {"saved_offsets": list(pieces[key].offsets)} for key in order}
    metadata = {"format": "pt", "DCP_VERSION": "1.0", _POSITIONS: json.dumps(positions)}
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-len(header) % _LENGTH_BYTES)
    yield memoryview(len(header).to_bytes(_LENGTH_BYTES, "little") + header)
    for key in order:
        values = pieces[key].values.detach().cpu().contiguous().view(-1)
        if values.numel():
            yield memoryview(values.view(torch.uint8).numpy())  # type: ignore[arg-type]


def _stored(entry: Mapping[str, Any], offsets: Any, start: int) -> StoredPiece:
    shape = tuple(int(size) for size in entry["shape"])
    place = tuple(int(offset) for offset in offsets) if offsets is not None else (0,) * len(shape)
    first, last = entry["data_offsets"]
    dtype = _DTYPES[entry["dtype"]]
    if min((0, *shape, *place)) < 0 or len(place) != len(shape):
        raise ValueError(f"shape {shape} at {place}")
    if first < 0 or last - first != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{last - first} bytes for {entry['dtype']} {shape}")
    return StoredPiece(place, shape, dtype, start + first)
