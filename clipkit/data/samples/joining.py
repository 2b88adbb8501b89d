"""Join the parts of a batch that several processes have made."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Protocol, final

import torch
from torch import Tensor

from clipkit.errors import DataError
from clipkit.types import (
    Batch,
    CandidateBatch,
    EncodedImages,
    ModalityBatch,
    NegativeBatch,
    TeacherBatch,
)

_Nested = Batch | TeacherBatch | NegativeBatch | CandidateBatch | EncodedImages | ModalityBatch


@final
@dataclass(frozen=True, slots=True)
class PadIds:
    """Token ids that fill captions up to the longest of a batch.

    Args:
        tokens: Padding of the captions.
        teacher_tokens: Padding of the captions in the teacher's tokens.
    """

    tokens: int = 0
    teacher_tokens: int = 0


@final
class BatchJoiner:
    """Copies the parts of a batch, one after the other, into tensors of the complete batch.

    The result is that of ``collate`` with all samples, without the cursor. A part is copied as it
    arrives, so that its own memory can be released; one that is a complete batch is not copied.

    Args:
        num_samples: Number of samples of the batch, at most.
        pad_ids: Padding of the captions.
        pins: Whether the tensors are in page-locked memory.

    Examples:
        >>> joiner = BatchJoiner(3, PadIds())
        >>> for key, length in [("a", 2), ("b", 4)]:
        ...     images = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
        ...     tokens = torch.ones(1, length, dtype=torch.int64)
        ...     joiner.add(Batch(images, tokens, torch.tensor([IGNORE_LABEL]), (key,)))
        >>> joiner.finish().tokens
        tensor([[1, 1, 0, 0],
                [1, 1, 1, 1]])
    """

    def __init__(self, num_samples: int, pad_ids: PadIds, pins: bool = False) -> None:
        self._num_samples = num_samples
        self._pad_ids = pad_ids
        self._pins = pins
        self._complete: Batch | None = None
        self._batch: _Part | None = None

    def add(self, part: Batch) -> None:
        """Copy the next part.

        Raises:
            DataError: If its fields or shapes are not those of the first part.
        """
        if len(part) == self._num_samples:
            self._complete = part
            return
        if self._batch is None:
            pad_ids = {
                "images": None if part.grids is None else 0,
                "tokens": self._pad_ids.tokens,
                "teacher.tokens": self._pad_ids.teacher_tokens,
                "negatives.tokens": self._pad_ids.tokens,
                "candidates.tokens": self._pad_ids.tokens,
            }
            buffers = _Buffers(self._num_samples, len(part), pad_ids, self._pins)
            self._batch = _Part(part, buffers)
        self._batch.add(part)

    def finish(self) -> Batch:
        """Return the batch, after at least one part."""
        if self._complete is not None:
            return self._complete.pin_memory() if self._pins else self._complete
        assert self._batch is not None
        batch = self._batch.finish()
        assert isinstance(batch, Batch)
        return batch


@dataclass(frozen=True, slots=True)
class _Buffers:
    """How the tensors of a batch are made."""

    num_samples: int  # samples of the batch
    num_of_first: int  # samples of its first part
    pad_ids: dict[str, int | None]  # by field; None, as for others, if all rows have one shape
    pins: bool

    def num_rows(self, of_first: int) -> int:
        """Return how many rows the batch has, if all parts are as the first one."""
        return -(-of_first * self.num_samples // self.num_of_first)


class _Column(Protocol):
    """One field of a batch."""

    def add(self, value: Any) -> None: ...

    def finish(self) -> Any: ...


@final
class _Part:
    """All fields of a batch, or of a nested part of it."""

    def __init__(self, first: _Nested, buffers: _Buffers, prefix: str = "") -> None:
        self._kind = type(first)
        names = [field.name for field in fields(first)]
        self._columns = {
            name: _column_for(f"{prefix}{name}", getattr(first, name), buffers) for name in names
        }

    def add(self, values: Any) -> None:
        for name, column in self._columns.items():
            if column is not None:
                column.add(getattr(values, name, None))

    def finish(self) -> _Nested:
        joined: dict[str, Any] = {
            name: None if column is None else column.finish()
            for name, column in self._columns.items()
        }
        return self._kind(**joined)


def _column_for(name: str, first: Any, buffers: _Buffers) -> _Column | None:
    """Return an empty column for the values of a field; None for a field that is not joined."""
    if isinstance(first, Tensor):
        return _Rows(name, first.dtype, buffers)
    if isinstance(
        first, TeacherBatch | NegativeBatch | CandidateBatch | EncodedImages | ModalityBatch
    ):
        return _Part(first, buffers, f"{name}.")
    if isinstance(first, dict) and name == "modalities":
        return _Named(first, buffers)
    if name == "rank_sizes" and first is not None:
        return _Sums()
    return _Texts() if isinstance(first, tuple) else None


@final
class _Named:
    """Further modalities by name."""

    def __init__(self, first: dict[str, ModalityBatch], buffers: _Buffers) -> None:
        self._parts = {
            name: _Part(one, buffers, f"modalities.{name}.") for name, one in first.items()
        }

    def add(self, value: Any) -> None:
        given = value or {}
        for name in dict.fromkeys((*self._parts, *given)):
            if name not in given or name not in self._parts:
                raise DataError(
                    f"batch.modalities: expected {name!r} of all samples or of none, got both "
                    f"kinds; a field must add it to every sample"
                )
            self._parts[name].add(given[name])

    def finish(self) -> dict[str, Any]:
        return {name: part.finish() for name, part in self._parts.items()}


@final
class _Rows:
    """Rows of a tensor, in a buffer for those of the complete batch."""

    def __init__(self, name: str, dtype: torch.dtype, buffers: _Buffers) -> None:
        self._name, self._dtype, self._buffers = name, dtype, buffers
        self._pad_id = buffers.pad_ids.get(name)
        self._num_rows = 0
        self._buffer: Tensor | None = None

    def add(self, value: Any) -> None:
        if not isinstance(value, Tensor):
            raise DataError(
                f"batch.{self._name}: expected it of all samples or of none, got both kinds; a "
                f"field must add it to every sample"
            )
        end = self._num_rows + len(value)
        self._buffer = self._fitting(end, tuple(value.shape[1:]))
        _write(self._buffer[self._num_rows : end], value, self._pad_id)
        self._num_rows = end

    def _fitting(self, num_rows: int, shape: tuple[int, ...]) -> Tensor:
        """Return the buffer, or a larger one if rows of a shape do not fit into it."""
        old = self._buffer
        if old is None:
            return self._empty(self._buffers.num_rows(num_rows), shape)
        wanted = tuple(old.shape[1:])
        if self._pad_id is not None:
            wanted = (max(wanted[0], shape[0]), *shape[1:])
        elif shape != wanted:
            raise DataError(
                f"batch.{self._name}: expected one shape in a batch, {wanted} as in its first "
                f"samples, got {shape}; the transform must return one size"
            )
        if num_rows <= len(old) and wanted == old.shape[1:]:
            return old
        larger = self._empty(len(old) if num_rows <= len(old) else num_rows * 3 // 2, wanted)
        _write(larger[: self._num_rows], old[: self._num_rows], self._pad_id)
        return larger

    def _empty(self, num_rows: int, shape: tuple[int, ...]) -> Tensor:
        return torch.empty((num_rows, *shape), dtype=self._dtype, pin_memory=self._buffers.pins)

    def finish(self) -> Tensor:
        assert self._buffer is not None
        return self._buffer[: self._num_rows]


def _write(rows: Tensor, values: Tensor, pad_id: int | None) -> None:
    """Copy values to rows that may be longer.

    numpy does it on one core, without the interpreter's lock. torch would start as many threads as
    there are cores, next to those of the training step.
    """
    target, source = rows.numpy(), values.numpy()
    if pad_id is None:
        target[...] = source
    else:
        target[:, : source.shape[1]] = source
        target[:, source.shape[1] :] = pad_id


@final
class _Texts:
    """Names or captions of samples."""

    def __init__(self) -> None:
        self._texts: list[Any] = []

    def add(self, value: Any) -> None:
        self._texts += value

    def finish(self) -> tuple[Any, ...]:
        return tuple(self._texts)


@final
class _Sums:
    """Numbers of samples of the ranks."""

    def __init__(self) -> None:
        self._sums: tuple[int, ...] = ()

    def add(self, value: Any) -> None:
        assert value is not None
        self._sums = tuple(map(sum, zip(self._sums or (0,) * len(value), value, strict=True)))

    def finish(self) -> tuple[int, ...]:
        return self._sums
