"""Create a sample from its raw members."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from clipkit.data.audio.formats import SOUND_EXTENSIONS
from clipkit.data.images.device_decoded import DeviceDecodedTransform
from clipkit.data.images.formats import IMAGE_EXTENSIONS, image_member
from clipkit.data.images.naflex import NaFlexTrainTransform
from clipkit.data.images.optional import OptionalImage
from clipkit.data.images.transforms import ImageTransform
from clipkit.data.rng import generator
from clipkit.data.samples.collate import collate
from clipkit.data.samples.content import CONTENT_ERRORS, IMAGES_AND_SOUNDS, sample_errors
from clipkit.data.samples.fields import NegativeImages, SampleContext, SampleField
from clipkit.data.samples.joining import PadIds
from clipkit.data.samples.teacher_fields import teacher_pad_id
from clipkit.data.shards.members import read_label
from clipkit.data.text.tokenizer import Encoder
from clipkit.errors import ConfigError, SampleError
from clipkit.patches import TokenBudget
from clipkit.types import Batch, EncodedImage, Sample

Caption = Callable[[Mapping[str, bytes], np.random.Generator], str]
Transform = Callable[[bytes, np.random.Generator], UInt8[Tensor, "3 H W"]]


@final
@dataclass(frozen=True, slots=True)
class SampleMaker:
    """Creates samples from raw members, and joins them into batches.

    Raises:
        ConfigError: If a field cannot be used with the image transform.
    """

    tokenizer: Encoder  # tokenizer of the captions
    image_transform: Transform  # transform from an image file to pixels
    caption: Caption  # picker of the caption among the members
    label_field: str  # member with the label, or field of a JSON member
    seed: int  # seed of the run
    fields: Sequence[SampleField] = ()  # further fields, in this order

    def __post_init__(self) -> None:
        reads_negatives = any(isinstance(field, NegativeImages) for field in self.fields)
        if isinstance(self.image_transform, DeviceDecodedTransform) and reads_negatives:
            raise ConfigError(
                "data.samples.fields: NegativeImages are decoded by workers, and this image "
                "transform lets the device decode; omit the field, or use TrainTransform"
            )
        if self.budget is not None and reads_negatives:
            raise ConfigError(
                "data.samples.fields: NegativeImages needs images of one size, and this image "
                "transform keeps their shapes; omit the field, or use TrainTransform"
            )

    @property
    def budget(self) -> TokenBudget | None:
        """Return the budget of patches of images of any shape; None for images of one shape."""
        transform = self.image_transform
        return transform.budget if isinstance(transform, ImageTransform) else None

    def at_size(self, image_size: int | None) -> SampleMaker:
        """Return this maker with images of another size, if their transform has one.

        Args:
            image_size: Width and height in pixels; None for those of this maker.
        """
        transform = self.image_transform
        if image_size is None or not isinstance(transform, ImageTransform):
            return self
        resized = transform.at_size(image_size)
        return self if resized is None else replace(self, image_transform=resized)

    @property
    def _counts_patches(self) -> NaFlexTrainTransform | None:
        """Return the transform if images have very different numbers of patches."""
        transform = self.image_transform
        if isinstance(transform, NaFlexTrainTransform) and not transform.budget.enlarge:
            return transform
        return None

    @property
    def unread_for_length(self) -> tuple[str, ...]:
        """Return the extensions of the members that ``length`` does not need."""
        return IMAGES_AND_SOUNDS if self._counts_patches is None else SOUND_EXTENSIONS

    def make(
        self, key: str, members: Mapping[str, bytes], sample_id: int, nonces: Sequence[int]
    ) -> Sample:
        """Create the sample, a function of its members, its id and ``nonces`` only."""
        rng = generator(self.seed, *nonces, sample_id)
        is_optional = isinstance(self.image_transform, OptionalImage)
        with sample_errors():
            image_data = self._image_data(members)
            caption = self.caption(members, rng)
            tokens = self.tokenizer.encode(caption)
            label = read_label(members, self.label_field)
            before = copy.deepcopy(rng) if self.fields else rng
            image, encoded = self._image(image_data, rng)
            sample = Sample(
                key=key,
                image=image,
                tokens=torch.tensor(tokens, dtype=torch.int64),
                label=label,
                sample_id=sample_id,
                caption=caption,
                encoded=encoded,
                has_image=image_data is not None if is_optional else None,
            )
            context = SampleContext(
                members, rng, before, image_data or b"", self.tokenizer.encode, self.image_transform
            )
            for field in self.fields:
                sample = field.add(sample, context)
            return _without_pair(sample)

    def _image_data(self, members: Mapping[str, bytes]) -> bytes | None:
        """Return the bytes of the image; None if the transform accepts samples without one."""
        transform = self.image_transform
        if isinstance(transform, OptionalImage) and (
            not transform.reads_images or members.keys().isdisjoint(IMAGE_EXTENSIONS)
        ):
            return None
        return image_member(members)

    def _image(
        self, data: bytes | None, rng: np.random.Generator
    ) -> tuple[UInt8[Tensor, "3 H W"], EncodedImage | None]:
        """Return an image, or an empty one and what the device decodes."""
        transform = self.image_transform
        if data is None:
            assert isinstance(transform, OptionalImage), "others need an image"
            return transform.empty(), None
        if isinstance(transform, DeviceDecodedTransform):
            return torch.empty((3, 0, 0), dtype=torch.uint8), transform.encode(data, rng)
        return transform(data, rng), None

    @property
    def pad_ids(self) -> PadIds:
        """Return the token ids that pad captions."""
        return PadIds(self.tokenizer.pad_id, teacher_pad_id(self.fields))

    def join(self, samples: Sequence[Sample]) -> Batch:
        """Join samples into a batch, or into a part of one."""
        return collate(samples, self.pad_ids, self.budget)

    def length(self, members: Mapping[str, bytes], sample_id: int, nonces: Sequence[int]) -> int:
        """Return the length by which windows are sorted; 0 if ``make`` would fail.

        It is the number of patches of an image that keeps its resolution, and otherwise the number
        of tokens of the caption. Images are then not needed among the members.
        """
        rng = generator(self.seed, *nonces, sample_id)
        try:
            caption = self.caption(members, rng)
            if self._counts_patches is not None:
                return self._counts_patches.num_patches(image_member(members), rng)
            return len(self.tokenizer.encode(caption))
        except (SampleError, *CONTENT_ERRORS):
            return 0


def _without_pair(sample: Sample) -> Sample:
    """Exclude a sample without an image from the losses over images and captions."""
    if sample.has_image is None:
        return sample
    return replace(sample, is_pair=sample.has_image and sample.is_pair is not False)
