"""Fields of a sample for the objective in addition to image, caption and class."""

from __future__ import annotations

import copy
import hashlib
import io
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from clipkit.data.images.transforms import ImageTransform
from clipkit.data.shards.members import read_classes, read_value
from clipkit.data.text.captions import CaptionPicker
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.errors import ConfigError, SampleError, check_at_least
from clipkit.types import IGNORE_LABEL, NegativeSample, Sample, TeacherSample

_PLAIN_NUMBER: Final = re.compile("0|[1-9][0-9]{0,18}")
"""Pattern of a number: without a sign, leading zeros, or digits of other scripts."""
_FIRST_DIGEST: Final = 2**62


@dataclass(frozen=True, slots=True)
class SampleContext:
    """Inputs available to a sample field."""

    members: Mapping[str, bytes]  # files of the sample by extension
    # random generator of the sample, after image and caption have drawn from it
    rng: np.random.Generator
    image_rng: np.random.Generator  # copy of that generator before the image transform
    image: bytes  # bytes of the image file
    encode: Callable[[str], list[int]]  # tokenizer of the captions, from a text to token ids
    # image transform of the samples, from an image file to pixels
    image_transform: Callable[[bytes, np.random.Generator], UInt8[Tensor, "3 H W"]]


class SampleField(ABC):
    """Adds a field to a sample, depending only on its members and random generator (abstract).

    A field sets its part in *every* sample, to an empty value if a sample lacks it: batches of
    all ranks must have the same fields.
    """

    pad_id: int | None = None
    """Padding id of the teacher's tokens; None if this field adds none."""

    @abstractmethod
    def add(self, sample: Sample, context: SampleContext) -> Sample:
        """Return the sample with its field.

        Args:
            sample: Sample with the previous fields.
            context: Inputs of the sample.

        Raises:
            SampleError: If the members cannot be used.
        """


@final
class Group(SampleField):
    """Samples of one group match each other: ``batch.groups``.

    Args:
        field: A member (``"group"``) or a field of a JSON member (``"json:image"``): an integer of
            at least 0, or any text. Equal texts are equal groups, and a number equals its text
            without leading zeros: 7 is "7", but not "007".

    Examples:
        >>> stream = PairStream(ShardIndex.from_urls("data/train"), tokenizer=OpenClipTokenizer(),
        ...                     batch_size=2, samples=SampleOptions(fields=[Group("json:color")]))
        >>> len(next(iter(stream)).groups)
        2
    """

    def __init__(self, field: str = "json:group") -> None:
        self.field = field

    def add(self, sample: Sample, context: SampleContext) -> Sample:
        """See ``SampleField.add``; a sample without the field matches only itself."""
        value = read_value(context.members, self.field)
        return replace(sample, group=_number_of(value, self.field))


@final
class CaptionMask(SampleField):
    """Excludes samples with an empty caption from the contrastive loss: ``batch.pair_mask``.

    They still train the label head. Use it with ``OptionalCaption``, which accepts them.
    """

    def add(self, sample: Sample, context: SampleContext) -> Sample:  # noqa: ARG002 (the caption is there)
        """See ``SampleField.add``."""
        return replace(sample, is_pair=bool(sample.caption))


@final
class MultiLabels(SampleField):
    """Several classes at once: ``batch.multi_labels``.

    A sample that lacks the first list has no known class.

    Args:
        num_classes: Number of classes.
        positives: Field of a JSON member that lists the classes that apply.
        negatives: Field that lists the classes that do not apply, if the others are unknown; None
            if no other class applies.

    Raises:
        ConfigError: If ``num_classes`` is not positive.
    """

    def __init__(
        self, num_classes: int, positives: str = "json:labels", negatives: str | None = None
    ) -> None:
        check_at_least("MultiLabels.num_classes", num_classes, 1)
        self.num_classes, self.positives, self.negatives = num_classes, positives, negatives

    def add(self, sample: Sample, context: SampleContext) -> Sample:
        """See ``SampleField.add``."""
        applies = self._classes(context.members, self.positives)
        rest = 0 if applies is not None and self.negatives is None else IGNORE_LABEL
        labels = torch.full((self.num_classes,), rest, dtype=torch.int64)
        if self.negatives is not None:
            labels[self._classes(context.members, self.negatives) or []] = 0
        labels[applies or []] = 1
        return replace(sample, multi_labels=labels)

    def _classes(self, members: Mapping[str, bytes], field: str) -> list[int] | None:
        classes = read_classes(members, field)
        if classes and max(classes) >= self.num_classes:
            raise SampleError(
                f"{field}: expected classes from 0 to {self.num_classes - 1}, got {classes!r}"
            )
        return classes


@final
class NegativeCaptions(SampleField):
    """Captions that do not match the image: ``batch.negatives.tokens``.

    Args:
        captions: Picker of these captions; a sample may have none.
        number: Number of captions that are drawn per sample, by their weights.

    Raises:
        ConfigError: If ``number`` is not positive.
    """

    def __init__(self, captions: CaptionPicker, number: int = 1) -> None:
        check_at_least("NegativeCaptions.number", number, 1)
        self.captions, self.number = captions, number

    def add(self, sample: Sample, context: SampleContext) -> Sample:
        """See ``SampleField.add``."""
        candidates = [c for c in self.captions.candidates(context.members) if c.weight > 0]
        chosen: Iterable[int] = range(len(candidates))
        if len(candidates) > self.number:
            weights = np.array([candidate.weight for candidate in candidates])
            shares = weights / weights.sum()
            chosen = context.rng.choice(len(candidates), self.number, replace=False, p=shares)
        tokens = tuple(torch.tensor(context.encode(candidates[i].text)) for i in chosen)
        negatives = sample.negatives or NegativeSample()
        return replace(sample, negatives=replace(negatives, tokens=tokens))


@final
class NegativeImages(SampleField):
    """Images that do not match the caption: ``batch.negatives.images``.

    Args:
        members: Extensions of the image files, such as ``["negative.jpg"]``; those that a sample
            lacks are ignored.
    """

    def __init__(self, members: list[str]) -> None:
        self.members = list(members)

    def add(self, sample: Sample, context: SampleContext) -> Sample:
        """See ``SampleField.add``."""
        files = [context.members[name] for name in self.members if name in context.members]
        images = tuple(context.image_transform(data, context.rng) for data in files)
        negatives = sample.negatives or NegativeSample()
        return replace(sample, negatives=replace(negatives, images=images))


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
        ConfigError: If both are None.
    """

    def __init__(
        self, image_transform: ImageTransform | None = None, tokenizer: Tokenizer | None = None
    ) -> None:
        if image_transform is None and tokenizer is None:
            raise ConfigError("TeacherInputs: expected an image_transform, a tokenizer, or both")
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


def _number_of(value: Any, field: str) -> int:
    """Convert a value to a number: small numbers stay, others become a digest.

    Digests are greater than all numbers that stay, so that they cannot collide.
    """
    if value is None:
        return -1
    is_negative = isinstance(value, int) and value < 0
    if isinstance(value, bool) or not isinstance(value, int | str) or is_negative:
        raise SampleError(f"{field}: expected an integer of at least 0 or a text, got {value!r}")
    text = str(value)
    if _PLAIN_NUMBER.fullmatch(text) and int(text) < _FIRST_DIGEST:
        return int(text)
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") % _FIRST_DIGEST + _FIRST_DIGEST


def _embedding(members: Mapping[str, bytes], name: str) -> Float[Tensor, " E"]:
    if name not in members:
        raise SampleError(f"no member {name}: expected a teacher's embedding in every sample")
    try:
        array = np.lib.format.read_array(io.BytesIO(members[name]), allow_pickle=False)
    except (ValueError, EOFError, OSError, TypeError, SyntaxError, MemoryError) as error:
        # A header may require any amount of memory.
        raise SampleError(f"member {name}: no NumPy file: {error}") from None
    if array.ndim != 1 or not np.issubdtype(array.dtype, np.floating):
        raise SampleError(
            f"member {name}: expected one axis of floats, got {array.shape} of {array.dtype}"
        )
    with np.errstate(over="ignore"):
        embedding = array.astype(np.float32)
    if not np.isfinite(embedding).all():
        raise SampleError(f"member {name}: expected finite numbers, got NaN or infinity")
    return torch.from_numpy(embedding)
