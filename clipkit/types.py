"""Data that is passed between the stages, and the legend of axes.

Axes in shape annotations, in all of clipkit:

| axis | meaning |
| --- | --- |
| B | samples in the batch of this rank |
| N | samples in the batch of all ranks, or of a complete set |
| D | components of an embedding |
| S | tokens of a caption, padded to the longest of the batch |
| C | classes |
| H W | height and width of an image, in pixels |

Every other axis is a word, such as ``"tile_rows columns"``.
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
"""Label of a sample without a label; torch's default of ``ignore_index``."""


@dataclass(slots=True)
class Sample:
    """One decoded pair.

    Fields that are None were not requested.

    Args:
        key: Name of the sample in its shard.
        image: Pixels of one image, 0 to 255.
        tokens: Token ids of one caption, at most context_length, without padding.
        label: Class index, or ``IGNORE_LABEL``.
        sample_id: Position of the sample in the data set, the same in all epochs and on all ranks.
        caption: Text of the tokens.
        group: Group id. Samples that share a non-negative id match each other; a negative id means
            that the sample matches itself only.
        is_pair: Whether image and caption belong together.
        multi_labels: 1 for each class that applies, 0 for each that does not, ``IGNORE_LABEL`` if
            unknown.
        negative_images: Images that do not match the caption.
        negative_tokens: Token ids of captions that do not match the image.
        teacher_image: Embedding of the image by a teacher.
        teacher_text: Embedding of the caption by a teacher.
        teacher_pixels: Pixels of the image at the teacher's size, 0 to 255.
        teacher_tokens: Token ids of the caption by the teacher's tokenizer.
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
    teacher_image: Float[Tensor, " teacher_dim"] | None = None
    teacher_text: Float[Tensor, " teacher_dim"] | None = None
    teacher_pixels: UInt8[Tensor, "3 teacher_height teacher_width"] | None = None
    teacher_tokens: Int64[Tensor, " S"] | None = None


@dataclass(slots=True)
class Batch:
    """The samples of one step on one rank.

    Fields that are None were not requested.

    Args:
        images: Pixels, 0 to 255; uint8 until they are on the device.
        tokens: Token ids, padded with the tokenizer's padding id to the batch's longest caption;
            None if captions are not used.
        labels: Class indices, ``IGNORE_LABEL`` where a sample has none.
        keys: Names of the samples in their shards.
        cursor: State of the stream after this batch, in plain types, for the stream's ``commit``.
        sample_ids: Position of each sample in the data set.
        captions: Texts of the tokens; empty if they are not used.
        groups: Group ids. Pairs that share a non-negative id match each other (several captions of
            an image, duplicates); a negative id means that the pair matches itself only.
        pair_mask: False where image and caption do not belong together (a sample with a label but
            without a caption); the contrastive loss excludes these.
        multi_labels: 1 where a class applies, 0 where it does not, ``IGNORE_LABEL`` where it is
            unknown.
        teacher_image: Stored embeddings of the images by a teacher.
        teacher_text: Stored embeddings of the captions by a teacher.
        teacher_pixels: Images at a teacher's size, 0 to 255.
        teacher_tokens: Token ids of the captions by a teacher's tokenizer, with its padding.
        negative_images: Images that match no caption of the batch; any number.
        negative_tokens: Token ids of captions that match no image of the batch; any number.

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
    teacher_image: Float[Tensor, "B teacher_dim"] | None = None
    teacher_text: Float[Tensor, "B teacher_dim"] | None = None
    teacher_pixels: UInt8[Tensor, "B 3 teacher_height teacher_width"] | None = None
    teacher_tokens: Int64[Tensor, "B S"] | None = None
    negative_images: UInt8[Tensor, "negative_images 3 H W"] | None = None
    negative_tokens: Int64[Tensor, "negative_texts S"] | None = None

    def __len__(self) -> int:
        return len(self.keys)

    def to(self, device: torch.device | str | int, non_blocking: bool | None = None) -> Batch:
        """Return a copy with every tensor on ``device``.

        Args:
            device: Destination of the tensors.
            non_blocking: Whether to return before the copy is complete; None for true if the
                destination is a GPU, whose later work waits for it. A copy to the CPU could be read
                before it is complete.
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
        """Return a copy in page-locked memory, which a GPU reads while the CPU continues."""
        pinned: dict[str, Any] = {
            f.name: value.pin_memory()
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **pinned)


@dataclass(slots=True)
class Embeddings:
    """Output of a dual encoder for a batch: the input of the losses.

    Args:
        image: Unit-norm embeddings of the images.
        text: Unit-norm embeddings of the captions; None if the batch has no tokens.
        logit_scale: Inverse temperature, linear (not its logarithm).
        logit_bias: Added to the scaled similarities by the sigmoid loss; None without one.
        label_logits: Scores of the classes; None without a label head.
        negative_image: Unit-norm embeddings of images that match no caption of the batch.
        negative_text: Unit-norm embeddings of captions that match no image of the batch.
        image_features: Output of the image tower before normalisation, the input of a label head;
            None without a head.
    """

    image: Float[Tensor, "B D"]
    text: Float[Tensor, "B D"] | None
    logit_scale: Float[Tensor, ""]
    logit_bias: Float[Tensor, ""] | None = None
    label_logits: Float[Tensor, "B C"] | None = None
    negative_image: Float[Tensor, "negative_images D"] | None = None
    negative_text: Float[Tensor, "negative_texts D"] | None = None
    image_features: Float[Tensor, "B D"] | None = None
