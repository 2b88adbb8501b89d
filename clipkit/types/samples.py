"""One decoded pair, and its parts that only some runs ask for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from jaxtyping import Float, Int64, UInt8
from torch import Tensor

IGNORE_LABEL: Final = -100
"""Label of a sample without a label; torch's default of ``ignore_index``."""


@dataclass(slots=True)
class TeacherSample:
    """Input of a teacher for a sample, or its stored output."""

    image: Float[Tensor, " teacher_dim"] | None = None  # stored embedding of the image
    text: Float[Tensor, " teacher_dim"] | None = None  # stored embedding of the caption
    # the image at the teacher's size
    pixels: UInt8[Tensor, "3 teacher_height teacher_width"] | None = None
    tokens: Int64[Tensor, " S"] | None = None  # the caption in the teacher's tokens


@dataclass(slots=True)
class NegativeSample:
    """Hard negatives of a sample."""

    images: tuple[UInt8[Tensor, "3 H W"], ...] | None = None  # images that do not match the caption
    tokens: tuple[Int64[Tensor, " S"], ...] | None = None  # captions that do not match the image


@dataclass(slots=True)
class CandidateSample:
    """Texts of which one belongs to the image of a sample, such as answers in a dialogue."""

    tokens: tuple[Int64[Tensor, " S"], ...] = ()  # token ids of each text; none: no candidates
    correct: int = -1  # position of the text that belongs to the image; -1 without candidates


@dataclass(slots=True)
class EncodedImage:
    """An image that the device decodes."""

    file: UInt8[Tensor, " bytes"]  # a JPEG file; or pixels [3 H W], if the device cannot decode it
    crop: Int64[Tensor, "7"]  # see EncodedImages.crops


@dataclass(slots=True)
class ModalitySample:
    """Input of a further modality, such as a sound, for a sample."""

    values: Float[Tensor, "*rest"]  # what the modality's tower reads; zeros if it is absent
    is_present: bool = True  # whether the sample has it


@dataclass(slots=True)
class Sample:
    """One decoded pair. A field that is None was not requested."""

    key: str  # name of the sample inside its shard
    image: UInt8[Tensor, "3 H W"]  # pixels, 0 to 255
    tokens: Int64[Tensor, " S"]  # token ids of the caption, without padding
    label: int = IGNORE_LABEL  # class index, or IGNORE_LABEL
    sample_id: int = -1  # position in the data set; the same in all epochs and on all ranks
    caption: str = ""  # the text that was tokenized
    group: int | None = None  # see Batch.groups
    is_pair: bool | None = None  # whether image and caption belong together
    multi_labels: Int64[Tensor, " C"] | None = None  # see Batch.multi_labels
    teacher: TeacherSample | None = None  # for distillation
    negatives: NegativeSample | None = None  # hard negatives
    encoded: EncodedImage | None = None  # instead of image, which is then empty
    has_image: bool | None = None  # see Batch.image_present
    has_text: bool | None = None  # see Batch.text_present
    modalities: dict[str, ModalitySample] | None = None  # further modalities by name
    faults: tuple[str, ...] = ()  # what is wrong with inputs that therefore count as absent
    candidates: CandidateSample | None = None  # see Batch.candidates
