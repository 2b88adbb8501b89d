"""From the raw members of a sample to its pixels, tokens and label."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from clipkit.data.images.formats import image_member
from clipkit.data.rng import generator
from clipkit.data.samples.content import CONTENT_ERRORS, sample_errors
from clipkit.data.samples.fields import SampleContext, SampleField
from clipkit.data.shards.members import read_label
from clipkit.data.text.tokenizer import Encoder
from clipkit.errors import SampleError
from clipkit.types import Sample

Caption = Callable[[Mapping[str, bytes], np.random.Generator], str]
Transform = Callable[[bytes, np.random.Generator], UInt8[Tensor, "3 H W"]]


@final
@dataclass(frozen=True, slots=True)
class SampleMaker:
    """Makes one sample of its raw members.

    Args:
        tokenizer: For captions.
        image_transform: From an image file to pixels.
        caption: Picks the text among the members.
        label_field: See ``read_label``.
        seed: Seed of the run.
        fields: What else a sample gets, in this order.
    """

    tokenizer: Encoder
    image_transform: Transform
    caption: Caption
    label_field: str
    seed: int
    fields: Sequence[SampleField] = ()

    def make(
        self, key: str, members: Mapping[str, bytes], sample_id: int, nonces: Sequence[int]
    ) -> Sample:
        """The sample, a function of its members, its id and ``nonces`` alone.

        Args:
            key: Its name.
            members: Its files by extension.
            sample_id: Its position in the data set.
            nonces: The pass, and whatever else shall change the augmentation.

        Raises:
            SampleError: If a member is missing or cannot be used.
        """
        rng = generator(self.seed, *nonces, sample_id)
        with sample_errors():
            image_data = image_member(members)
            caption = self.caption(members, rng)
            tokens = self.tokenizer.encode(caption)
            label = read_label(members, self.label_field)
            before = copy.deepcopy(rng) if self.fields else rng
            image = self.image_transform(image_data, rng)
            sample = Sample(
                key=key,
                image=image,
                tokens=torch.tensor(tokens, dtype=torch.int64),
                label=label,
                sample_id=sample_id,
                caption=caption,
            )
            context = SampleContext(
                members, rng, before, image_data, self.tokenizer.encode, self.image_transform
            )
            for field in self.fields:
                sample = field.add(sample, context)
            return sample

    def caption_length(
        self, members: Mapping[str, bytes], sample_id: int, nonces: Sequence[int]
    ) -> int:
        """Tokens of the caption that ``make`` chooses; 0 where it would fail over it."""
        try:
            caption = self.caption(members, generator(self.seed, *nonces, sample_id))
            return len(self.tokenizer.encode(caption))
        except (SampleError, *CONTENT_ERRORS):
            return 0
