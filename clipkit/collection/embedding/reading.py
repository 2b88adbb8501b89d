"""Read and decode the samples of shards in worker processes, in batches that never cross shards."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.data import DataLoader

from clipkit.collection.embedding.columns import read_columns, valid_text
from clipkit.collection.embedding.members import needed_members, read_members
from clipkit.collection.embedding.sounds import SignalRows, SoundReader, joined_signals
from clipkit.collection.info import modality_columns
from clipkit.collection.member_files import MAX_FILE_BYTES
from clipkit.collection.shard_tables import COLUMNS
from clipkit.data.images.formats import image_extension
from clipkit.data.images.inspection import inspect_image
from clipkit.data.images.transforms import ExactTransform
from clipkit.data.samples.content import sample_errors
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.members import read_label
from clipkit.data.shards.reader import ShardReader
from clipkit.data.text.captions import CaptionPicker
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import ClipkitError, SampleError
from clipkit.patches import JoinedImages, TokenBudget, join_images
from clipkit.types import IGNORE_LABEL

MAX_CAPTIONS: Final = 1000
"""Most captions of a sample: all of them are embedded."""
NO_IMAGE_TOWER: Final = "the model has no tower for images"
"""Value of the column ``error`` of all samples of such a model."""
_BATCHES_AHEAD: Final = 2
"""Number of batches that each worker prepares in advance."""


class BatchTask(NamedTuple):
    """Some consecutive samples of a shard."""

    shard: int  # number of the shard
    first: int  # position of the first sample in the shard
    end: int  # position after the last one


@dataclass(slots=True)
class ReadBatch:
    """Samples of one shard, decoded and tokenized."""

    task: BatchTask
    places: Int64[np.ndarray, " B"]  # positions in the batch of the images that can be decoded
    images: JoinedImages | None  # pixels, with grids for images of any shape; None without images
    tokens: list[Int64[Tensor, "texts S"]]  # of all captions, sample by sample
    columns: dict[str, Sequence[Any]]  # of every sample
    misfits: Counter[str]  # values per column that are not of its type
    signals: dict[str, SignalRows]  # inputs of further modalities, of the samples that have them
    faults: list[str | None]  # why a member of a sample cannot be embedded


@dataclass(slots=True)
class UnreadBatch:
    """Samples that cannot be read, because their shard cannot."""

    task: BatchTask
    error: ClipkitError


@final
@dataclass(frozen=True, slots=True)
class SampleReader:
    """Reads batches of samples; the dataset of a ``DataLoader``.

    An error is returned as a value: raised in a worker, it would arrive as the text of a traceback.
    """

    index: ShardIndex
    reader: ShardReader
    transform: ExactTransform | None  # None without a tower for images
    budget: TokenBudget | None  # patches of an image of any shape
    tokenizer: Tokenizer | None  # None without embeddings of captions
    caption: CaptionPicker
    label_field: str
    column_types: dict[str, str]
    batch_size: int
    sounds: SoundReader

    def __getitem__(self, task: BatchTask) -> ReadBatch | UnreadBatch:
        try:
            return self._read(task)
        except ClipkitError as error:
            return UnreadBatch(task, error)

    def _read(self, task: BatchTask) -> ReadBatch:
        start, misfits = int(self.index.starts[task.shard]), Counter[str]()
        images, tokens, rows = dict[int, Tensor](), list[list[int]](), list[dict[str, Any]]()
        for place, position in enumerate(range(task.first, task.end)):
            row = self._row(task.shard, start + position, misfits)
            pixels, encoded = row.pop("pixels"), row.pop("tokens")
            if pixels is not None:
                images[place] = pixels
            tokens += encoded
            rows.append(row)
        names = (*COLUMNS, *self.column_types, *modality_columns(self.sounds.transforms))
        return ReadBatch(
            task,
            np.array(list(images), dtype=np.int64),
            join_images(list(images.values()), self.budget) if images else None,
            self._padded(tokens),
            {name: [row[name] for row in rows] for name in names},
            misfits,
            joined_signals([row["signals"] for row in rows]),
            [row["fault"] for row in rows],
        )

    def _row(self, shard: int, sample_id: int, misfits: Counter[str]) -> dict[str, Any]:
        """Return the columns and the inputs of a sample, as far as it can be read."""
        table, position = self.reader.table(shard), sample_id - int(self.index.starts[shard])
        row = dict.fromkeys((*COLUMNS, *self.column_types, "pixels", "fault"))
        row |= {"key": table.key(position), "captions": [], "tokens": [], "signals": {}}
        try:
            with sample_errors():
                self._fill(row, sample_id, table.members(position), misfits)
        except SampleError as error:
            reason = error.reason.encode(errors="backslashreplace").decode()
            row = self.sounds.unread(reason) | row | {"error": reason, "fault": reason}
        return row

    def _fill(
        self,
        row: dict[str, Any],
        sample_id: int,
        spans: Mapping[str, tuple[int, int]],
        misfits: Counter[str],
    ) -> None:
        """Add what the members of a sample say, up to the first that cannot be read."""
        sound = self.sounds.member(spans)
        image, absent = _image_of(spans, is_needed=sound is None and self.transform is not None)
        sizes = {name: size for name, (_, size) in spans.items()}
        media = [] if image is None or self.transform is None else [image]
        if sound is not None and sizes[sound] <= MAX_FILE_BYTES:
            media.append(sound)
        needed = needed_members(self.caption, (self.label_field, *self.column_types))
        members = read_members(self.reader, sample_id, sizes, needed, media)
        if image is not None:
            row |= {
                "image_type": image,
                "image_offset_bytes": spans[image][0],
                "image_size_bytes": sizes[image],
            }
        if image is not None and image in members:
            row["image_sha256"] = hashlib.sha256(members[image]).digest()
        row |= self._texts(members)
        label = read_label(members, self.label_field)
        row["label"] = None if label == IGNORE_LABEL else label
        count: Callable[[str, str], None] = lambda field, _: misfits.update([field])  # noqa: E731
        row |= read_columns(members, self.column_types, count)
        columns, values, fault = self.sounds.read(sound, spans.get(sound or "", (0, 0)), members)
        row |= columns | {"signals": values, "fault": fault}
        if self.transform is None:
            row["error"] = NO_IMAGE_TOWER
        elif image is None:
            row["error"] = absent
        else:
            row |= self._image(members[image], self.transform)

    def _texts(self, members: dict[str, bytes]) -> dict[str, Any]:
        weighted = self.caption.candidates(members)
        captions = [valid_text(c.text) for c in weighted if c.weight > 0 and c.text]
        if len(captions) > MAX_CAPTIONS:
            raise SampleError(
                f"expected at most {MAX_CAPTIONS:,} captions, got {len(captions):,}; name fewer"
            )
        if self.tokenizer is None:
            return {"captions": captions}
        return {"captions": captions, "tokens": list(map(self.tokenizer.encode, captions))}

    def _image(self, data: bytes, transform: ExactTransform) -> dict[str, Any]:
        image = inspect_image(data, transform)
        return {
            "width_pixels": image.width_pixels,
            "height_pixels": image.height_pixels,
            "image_signature": image.signature.astype("<u8").tobytes(),
            "pixels": image.pixels,
        }

    def _padded(self, tokens: Sequence[list[int]]) -> list[Int64[Tensor, "texts S"]]:
        if self.tokenizer is None:
            return []
        starts = range(0, len(tokens), self.batch_size)
        return [self.tokenizer.pad(tokens[start : start + self.batch_size]) for start in starts]


def _image_of(spans: Mapping[str, object], is_needed: bool) -> tuple[str | None, str]:
    """Return the member that is the image; without one, None and the reason.

    Raises:
        SampleError: If there is none and it is needed.
    """
    try:
        return image_extension(list(spans)), ""
    except SampleError as error:
        if is_needed:
            raise
        return None, error.reason


@final
class BatchTasks:
    """Batches of several shards, shard after shard: the sampler of a ``DataLoader``.

    Args:
        reader: Reader of the samples, for the transfer of the next remote shard in advance.
        index: The shards.
        counts: Number of samples of each shard that are embedded.
        numbers: Numbers of the shards.
        batch_size: Samples per batch.
        is_wanted: Asked before the first batch of a shard; another process may have embedded it.
    """

    def __init__(
        self,
        reader: ShardReader,
        index: ShardIndex,
        counts: Sequence[int],
        numbers: Sequence[int],
        batch_size: int,
        is_wanted: Callable[[int], bool],
    ) -> None:
        self._reader = reader
        self._index = index
        self._counts = counts
        self._numbers = numbers
        self._batch_size = batch_size
        self._is_wanted = is_wanted

    def __iter__(self) -> Iterator[BatchTask]:
        for place, shard in enumerate(self._numbers):
            if not self._is_wanted(shard):
                continue
            self._transfer(self._numbers[place + 1 : place + 2])
            count = self._counts[shard]
            for first in range(0, count, self._batch_size):
                yield BatchTask(shard, first, min(first + self._batch_size, count))

    def _transfer(self, shards: Sequence[int]) -> None:
        for shard in shards:
            if not self._index.shards[shard].address.is_local:
                start = int(self._index.starts[shard])
                self._reader.prefetch(np.arange(start, start + self._counts[shard]))


def read_batches(
    reader: SampleReader, tasks: BatchTasks, num_workers: int
) -> Generator[ReadBatch | UnreadBatch]:
    """Yield the batches of tasks, in order; the workers read ahead over the ends of shards."""
    loader: DataLoader[Any] = DataLoader(
        reader,  # type: ignore[arg-type]
        sampler=tasks,
        batch_size=None,
        num_workers=num_workers,
        prefetch_factor=_BATCHES_AHEAD if num_workers else None,
        collate_fn=_as_it_is,
        generator=torch.Generator(),
    )
    yield from loader


def _as_it_is(batch: Any) -> Any:
    return batch
