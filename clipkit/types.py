"""What travels between the stages, and the legend of axes.

Axes in shape annotations, everywhere in clipkit:

| axis | meaning |
| --- | --- |
| B | samples in the batch of this rank |
| N | samples in the batch of all ranks together |
| D E | components of an embedding: of the student, of a teacher |
| S | tokens of a caption, padded to the longest of the batch |
| C | classes |
| K L | hard negatives: pictures, captions |
| H W | height and width of an image, in pixels |
| T U | height and width of a teacher's image, in pixels |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Final

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

__all__ = ["IGNORE_LABEL", "Batch", "Embeddings", "Sample"]

IGNORE_LABEL: Final = -100
"""The label of a sample that has none; torch's own convention for ``ignore_index``."""


@dataclass(slots=True)
class Sample:
    """One decoded pair.

    Args:
        key: The sample's name inside its shard.
        image: Pixels of one picture, 0 to 255.
        tokens: Token ids of one caption, at most context_length of them, without padding.
        label: Class index, or ``IGNORE_LABEL``.
        sample_id: Position of the sample in the whole data set; stable over epochs and ranks.
        caption: The text that was tokenized.
        group: Samples with the same number match each other; negative: it matches itself alone.
            None, as in all that follows: nobody asked.
        is_pair: Whether picture and caption belong together.
        multi_labels: See ``Batch``.
        negative_images: Pictures that do not match the caption.
        negative_tokens: Captions that do not match the picture.
        teacher_image: A teacher's embedding of the picture.
        teacher_text: A teacher's embedding of the caption.
        teacher_pixels: The picture as a teacher wants it.
        teacher_tokens: The caption as a teacher wants it.
    """

    key: str
    image: UInt8[Tensor, "3 H W"]
    tokens: Int64[Tensor, " S"]
    label: int = IGNORE_LABEL
    sample_id: int = -1
    caption: str = ""
    group: int | None = None
    is_pair: bool | None = None
    multi_labels: Int64[Tensor, " C"] | None = None
    negative_images: tuple[UInt8[Tensor, "3 H W"], ...] | None = None
    negative_tokens: tuple[Int64[Tensor, " S"], ...] | None = None
    teacher_image: Float[Tensor, " E"] | None = None
    teacher_text: Float[Tensor, " E"] | None = None
    teacher_pixels: UInt8[Tensor, "3 T U"] | None = None
    teacher_tokens: Int64[Tensor, " S"] | None = None


@dataclass(slots=True)
class Batch:
    """The samples of one step on one rank.

    Args:
        images: Pixels, 0 to 255; they stay uint8 until they are on the device.
        tokens: Token ids, padded with the tokenizer's padding id to the batch's longest caption;
            None where nobody reads captions.
        labels: Class indices, ``IGNORE_LABEL`` where a sample has none.
        keys: The samples' names.
        cursor: Where the stream stands once this batch has been trained on; plain types. The
            stream's ``commit`` reads it.
        sample_ids: Position of each sample in the whole data set.
        captions: The texts that were tokenized; empty where nobody needs them.
        groups: Pairs with the same number match each other (several captions of a picture,
            duplicates); negative: the pair matches itself alone. None: all do.
        pair_mask: False where picture and caption do not belong together (a sample with a label
            but no caption); the contrastive loss leaves those out.
        multi_labels: 1 where a class applies, 0 where it does not, ``IGNORE_LABEL`` where nobody
            knows.
        teacher_image: Stored unit-norm embeddings of the pictures by a teacher, of its own width.
        teacher_text: Stored unit-norm embeddings of the captions by a teacher.
        teacher_pixels: The pictures at a teacher's size, 0 to 255.
        teacher_tokens: The captions in a teacher's tokens, padded for it.
        negative_images: Pictures that match no caption of the batch; any number.
        negative_tokens: Captions that match no picture of the batch; any number.

    Examples:
        >>> batch = Batch(torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
        ...               torch.zeros(2, 5, dtype=torch.int64),
        ...               torch.tensor([3, IGNORE_LABEL]), ("a", "b"))
        >>> len(batch)
        2
    """

    images: UInt8[Tensor, "B 3 H W"]
    tokens: Int64[Tensor, "B S"] | None
    labels: Int64[Tensor, " B"]
    keys: tuple[str, ...]
    cursor: Mapping[str, Any] | None = None
    sample_ids: Int64[Tensor, " B"] | None = None
    captions: tuple[str, ...] = ()
    groups: Int64[Tensor, " B"] | None = None
    pair_mask: Bool[Tensor, " B"] | None = None
    multi_labels: Int64[Tensor, "B C"] | None = None
    teacher_image: Float[Tensor, "B E"] | None = None
    teacher_text: Float[Tensor, "B E"] | None = None
    teacher_pixels: UInt8[Tensor, "B 3 T U"] | None = None
    teacher_tokens: Int64[Tensor, "B S"] | None = None
    negative_images: UInt8[Tensor, "K 3 H W"] | None = None
    negative_tokens: Int64[Tensor, "L S"] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str | int, non_blocking: bool | None = None) -> Batch:
        """Return a copy with every tensor on ``device``.

        Args:
            device: The destination.
            non_blocking: Whether to return before the copy is made; None for yes where the
                destination is a GPU, whose later work waits for it. On its way to the CPU a tensor
                could be read before it is there.
        """
        if non_blocking is None:
            non_blocking = torch.device(device).type in ("cuda", "xpu")
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=non_blocking)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)

    def pin_memory(self) -> Batch:
        """A copy in page-locked memory, which a GPU can read while the CPU goes on."""
        pinned: dict[str, Any] = {
            f.name: value.pin_memory()
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **pinned)


@dataclass(slots=True)
class Embeddings:
    """What a dual encoder makes of a batch, and all that a loss may look at.

    Args:
        image: Unit-norm embeddings of the pictures.
        text: Unit-norm embeddings of the captions; None where the batch has no tokens.
        logit_scale: Inverse temperature, linear (never its logarithm).
        logit_bias: Added to the scaled similarities by the sigmoid loss.
        label_logits: Scores of the classes.
        negative_image: Unit-norm embeddings of pictures that match no caption of the batch.
        negative_text: Unit-norm embeddings of captions that match no picture of the batch.
        image_features: The pictures as the image tower gives them, not of unit norm; what a label
            head scores. None without a head.
    """

    image: Float[Tensor, "B D"]
    text: Float[Tensor, "B D"] | None
    logit_scale: Float[Tensor, ""]
    logit_bias: Float[Tensor, ""] | None = None
    label_logits: Float[Tensor, "B C"] | None = None
    negative_image: Float[Tensor, "K D"] | None = None
    negative_text: Float[Tensor, "L D"] | None = None
    image_features: Float[Tensor, "B D"] | None = None
