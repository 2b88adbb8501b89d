"""The samples of one step on one rank, and their parts that only some runs ask for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from itertools import combinations
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

_Part = TypeVar(
    "_Part", bound="Batch | TeacherBatch | NegativeBatch | CandidateBatch | ModalityBatch"
)
_RENAMED: Final = {
    **{f"teacher_{name}": f"teacher.{name}" for name in ("image", "text", "pixels", "tokens")},
    **{f"negative_{name}": f"negatives.{name}" for name in ("images", "tokens")},
}


@dataclass(slots=True)
class TeacherBatch:
    """Input of a teacher for a batch, or its stored output. A field that is None is absent."""

    image: Float[Tensor, "B teacher_dim"] | None = None  # stored embeddings of the images
    text: Float[Tensor, "B teacher_dim"] | None = None  # stored embeddings of the captions
    # the images at the teacher's size, 0 to 255
    pixels: UInt8[Tensor, "B 3 teacher_height teacher_width"] | None = None
    tokens: Int64[Tensor, "B S"] | None = None  # the captions in the teacher's tokens, padded


@dataclass(slots=True)
class NegativeBatch:
    """Hard negatives of a batch: any number of them, which belong to no sample."""

    # images that match no caption of the batch
    images: UInt8[Tensor, "negative_images 3 H W"] | None = None
    # captions that match no image of the batch
    tokens: Int64[Tensor, "negative_texts S"] | None = None


@dataclass(slots=True)
class CandidateBatch:
    """Texts of each sample, of which one belongs to its image."""

    # token ids of all texts, one sample after the other, padded to the longest
    tokens: Int64[Tensor, "candidates S"]
    counts: Int64[Tensor, " B"]  # number of texts of each sample; 0 without candidates
    correct: Int64[Tensor, " B"]  # position of the right one among those of its sample, or -1


@dataclass(slots=True)
class ModalityBatch:
    """Input of a further modality for a batch."""

    values: Float[Tensor, "B *rest"]  # what the modality's tower reads; zeros where it is absent
    present: Bool[Tensor, " B"]  # which samples have it
    # number of samples that have it, so that no GPU is asked for it; ``Batch.to`` sets it
    num_present: int | None = None


@dataclass(frozen=True, slots=True)
class PairSizes:
    """Numbers of rows that each rank adds to a contrastive loss in a step."""

    pairs: tuple[int, ...]  # pairs of each rank that no mask excludes
    negative_texts: tuple[int, ...]  # negative texts of each rank
    negative_images: tuple[int, ...] | None = None  # negative images of each rank, if known


@dataclass(slots=True)
class EncodedImages:
    """Images that the device decodes; they stay in host memory, where its decoder reads them."""

    files: UInt8[Tensor, " bytes"]  # one after the other
    lengths: Int64[Tensor, " B"]  # number of bytes of each
    # size of the square result; width and height of the file, 0 if it holds the result's pixels;
    # first column, first row, number of columns and of rows of the crop
    crops: Int64[Tensor, "B 7"]


@dataclass(slots=True)
class Batch:
    """The samples of one step on one rank. A field that is None was not requested.

    Examples:
        >>> batch = Batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        ...               torch.zeros(2, 5, dtype=torch.int64),
        ...               torch.tensor([3, IGNORE_LABEL]), ("a", "b"))
        >>> len(batch)
        2
    """

    # pixels, 0 to 255; uint8 until they are on the device. Images of any shape come as patches
    # (the values of each by row, column and colour), padded to the most patches of an image
    images: UInt8[Tensor, "B 3 H W"] | UInt8[Tensor, "B patches values"]
    # token ids, padded to the longest caption of the batch; None where no captions are used
    tokens: Int64[Tensor, "B S"] | None
    # class indices, IGNORE_LABEL where a sample has none
    labels: Int64[Tensor, " B"]
    # names of the samples inside their shards
    keys: tuple[str, ...]
    # position of the stream after this batch, in plain types, for PairStream.commit
    cursor: Mapping[str, Any] | None = None
    # position of each sample in the data set
    sample_ids: Int64[Tensor, " B"] | None = None
    # the texts that were tokenized; empty where they are not needed
    captions: tuple[str, ...] = ()
    # pairs with the same non-negative number match each other, such as several captions of an
    # image; a pair with a negative number matches itself only
    groups: Int64[Tensor, " B"] | None = None
    # False where image and caption do not belong together, as for a sample with a label and no
    # caption; the contrastive loss leaves those out. None: all belong together
    pair_mask: Bool[Tensor, " B"] | None = None
    # 1 where a class applies, 0 where it does not, IGNORE_LABEL where it is unknown
    multi_labels: Int64[Tensor, "B C"] | None = None
    # for distillation
    teacher: TeacherBatch | None = None
    # hard negatives
    negatives: NegativeBatch | None = None
    # rows and columns of patches of each image; None if all images have the same shape
    grids: Int64[Tensor, "B 2"] | None = None
    # number of samples of each rank in this step, which the losses then need not exchange, and wait
    # for; None if it is not known
    rank_sizes: tuple[int, ...] | None = None
    # number of pairs that pair_mask keeps, so that no GPU is asked for it; ``to`` sets it
    num_pairs: int | None = None
    # numbers of pairs and negatives of each rank, for batches with a mask or negatives, as
    # rank_sizes; see losses.StepExchange
    pair_sizes: PairSizes | None = None
    # the same two for samples that have both of two modalities, by the names of these in the order
    # of the alphabet; for image and text without those that pair_mask excludes
    num_joint: Mapping[tuple[str, str], int] | None = None
    joint_sizes: Mapping[tuple[str, str], PairSizes] | None = None
    # images that are still to be decoded, by DeviceDecoder; images is then empty [B 3 0 0]
    encoded: EncodedImages | None = None
    # which samples have an image, and which have a caption; None: all. The others have zeros as
    # pixels, or an empty caption, and pair_mask excludes them
    image_present: Bool[Tensor, " B"] | None = None
    text_present: Bool[Tensor, " B"] | None = None
    # further modalities by name, such as "sound"
    modalities: dict[str, ModalityBatch] | None = None
    # texts of which one belongs to the image of a sample, for CandidateLoss
    candidates: CandidateBatch | None = None

    def __len__(self) -> int:
        return len(self.keys)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> NoReturn:
            hint = f"; it is batch.{_RENAMED[name]} now" if name in _RENAMED else ""
            raise AttributeError(f"Batch has no {name!r}{hint}")

    def to(self, device: torch.device | str | int, non_blocking: bool | None = None) -> Batch:
        """Return a copy with every tensor on ``device``.

        Args:
            device: The destination.
            non_blocking: Whether to return before the copy is complete; None for yes if the
                destination is a GPU, whose later work waits for it. On its way to the CPU a tensor
                could be read too early.
        """
        if non_blocking is None:
            non_blocking = torch.device(device).type in ("cuda", "xpu")
        moved = _with_tensors(self, lambda value: value.to(device, non_blocking=non_blocking))
        mask = self.pair_mask
        if mask is not None and self.num_pairs is None and mask.device.type == "cpu":
            moved.num_pairs = int(mask.sum())
        if self.num_joint is None:
            moved.num_joint = count_joint(self)
        for name, modality in (self.modalities or {}).items():
            if modality.num_present is None and modality.present.device.type == "cpu":
                assert moved.modalities is not None
                moved.modalities[name].num_present = int(modality.present.sum())
        return moved

    def pin_memory(self) -> Batch:
        """Return a copy in page-locked memory, from which a GPU reads asynchronously."""
        return _with_tensors(self, Tensor.pin_memory)

    def tensors(self) -> Iterator[Tensor]:
        """Yield every tensor, also of nested parts."""
        return _tensors_of(self)


_NESTED: Final = (TeacherBatch, NegativeBatch, CandidateBatch)
"""Parts of a batch that have tensors of their own."""


def count_joint(batch: Batch) -> dict[tuple[str, str], int]:
    """Count the samples that have both of two modalities, by their names as in ``num_joint``.

    Pairs without a mask, and those whose masks are on a GPU, which would be asked, are left out.
    """
    masks = {"image": batch.image_present, "text": batch.text_present}
    masks |= {name: modality.present for name, modality in (batch.modalities or {}).items()}
    counts = {}
    for pair in combinations(sorted(masks), 2):
        both = [masks[name] for name in pair]
        both += [batch.pair_mask] if pair == ("image", "text") else []
        given = [mask for mask in both if mask is not None]
        if given and all(mask.device.type == "cpu" for mask in given):
            counts[pair] = int(torch.stack(given).all(0).sum())
    return counts


def _with_tensors(part: _Part, change: Callable[[Tensor], Tensor]) -> _Part:
    """Return a copy of a part of a batch with every tensor changed, also in nested parts."""
    changed: dict[str, Any] = {}
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            changed[field.name] = change(value)
        elif isinstance(value, _NESTED):
            changed[field.name] = _with_tensors(value, change)
        elif field.name == "modalities" and value is not None:
            changed[field.name] = {n: _with_tensors(one, change) for n, one in value.items()}
    return replace(part, **changed)


def _tensors_of(
    part: Batch | TeacherBatch | NegativeBatch | CandidateBatch | ModalityBatch,
) -> Iterator[Tensor]:
    for field in fields(part):
        value = getattr(part, field.name)
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, _NESTED):
            yield from _tensors_of(value)
        elif field.name == "modalities":
            for modality in (value or {}).values():
                yield from _tensors_of(modality)
