"""Fields of a sample for distillation: what a teacher returned, or what it reads."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.data.images.transforms import ImageTransform
from clipkit.data.samples.arrays import read_array
from clipkit.data.samples.fields import SampleContext, SampleField
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import ConfigError, SampleError
from clipkit.types import Sample, TeacherSample


@final
class TeacherEmbeddings(SampleField):
    """Stored embeddings of a teacher, for ``StoredTeacher``.

    Args:
        image: Extension of the member with the image embedding: a NumPy file with one axis.
        text: Extension of the member with the text embedding, of the caption that is trained on.
    """

    def __init__(self, image: str = "teacher_image.npy", text: str = "teacher_text.npy") -> None:
        self.image, self.text = image, text

    def add(self, sample: Sample, context: SampleContext) -> Sample:
        """See ``SampleField.add``."""
        image, text = (_embedding(context.members, name) for name in (self.image, self.text))
        teacher = sample.teacher or TeacherSample()
        return replace(sample, teacher=replace(teacher, image=image, text=text))


@final
class TeacherInputs(SampleField):
    """Image and caption as input of another encoder, for ``EncoderTeacher``.

    The image is transformed with the random numbers of the student's transform, so that two
    ``TrainTransform`` objects that differ only in size use the same crop.

    Args:
        image_transform: Transform from an image file to the teacher's pixels; None to use the
            student's pixels.
        tokenizer: Tokenizer of the teacher's text tower; None to use the student's tokens.

    Raises:
        ConfigError: If both are None, or the transform returns images of any shape.
    """

    def __init__(
        self, image_transform: ImageTransform | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        if image_transform is None and tokenizer is None:
            raise ConfigError("TeacherInputs: expected an image_transform, a tokenizer, or both")
        if image_transform is not None and image_transform.budget is not None:
            raise ConfigError(
                f"TeacherInputs.image_transform: {type(image_transform).__name__} returns images "
                f"of any shape, a teacher's have one; use TrainTransform or EvalTransform, or omit "
                f"it for a teacher that reads the student's patches"
            )
        self.image_transform, self.tokenizer = image_transform, tokenizer
        self.pad_id = None if tokenizer is None else tokenizer.pad_id

    def add(self, sample: Sample, context: SampleContext) -> Sample:
        """See ``SampleField.add``."""
        teacher = sample.teacher or TeacherSample()
        if self.image_transform is not None:
            pixels = self.image_transform(context.image, copy.deepcopy(context.image_rng))
            teacher = replace(teacher, pixels=pixels)
        if self.tokenizer is not None:
            tokens = self.tokenizer.encode(sample.caption)
            teacher = replace(teacher, tokens=torch.tensor(tokens, dtype=torch.int64))
        return replace(sample, teacher=teacher)


def teacher_pad_id(fields: Sequence[SampleField]) -> int:
    """Return the padding id of ``teacher.tokens``; 0 if no field adds them."""
    return next((field.pad_id for field in fields if field.pad_id is not None), 0)


def _embedding(members: Mapping[str, bytes], name: str) -> Float[Tensor, " teacher_dim"]:
    if name not in members:
        raise SampleError(f"no member {name}: expected a teacher's embedding in every sample")
    try:
        array = read_array(members[name])
    except SampleError as error:
        raise SampleError(f"member {name}: {error.reason}") from None
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.floating):
        raise SampleError(
            f"member {name}: expected one axis of floats, got {array.shape} of {array.dtype}"
        )
    with np.errstate(over="ignore"):
        embedding = array.astype(np.float32)
    if not np.isfinite(embedding).all():
        raise SampleError(f"member {name}: expected finite numbers, got NaN or infinity")
    return torch.from_numpy(embedding)
