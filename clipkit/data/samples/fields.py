"""Fields of a sample for the objective in addition to image, caption and class."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from clipkit.data.shards.members import read_classes, read_value
from clipkit.data.text.captions import CaptionPicker
from clipkit.errors import SampleError, check_at_least
from clipkit.types import IGNORE_LABEL, NegativeSample, Sample

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

    class_names: Sequence[str] = ()
    """Names of the classes, if this field sets ``sample.label``; empty if it does not."""

    @abstractmethod
    def add(self, sample: Sample, context: SampleContext) -> Sample:
        """Return the sample with its field.

        Args:
            sample: Sample with the previous fields.
            context: Inputs of the sample.

        Raises:
            SampleError: If the members cannot be used.
        """

    def for_evaluation(self) -> SampleField:
        """Return this field without random changes of its values, for validation."""
        return self


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
class CaptionGroup(SampleField):
    """Samples whose captions are equal to the text tower match each other: ``batch.groups``.

    Without it, the second image with the caption "a dog" is a negative of the first one's, although
    both texts have the same embedding. Captions are compared after tokenization and truncation. A
    sample with an empty caption matches only itself.

    Examples:
        >>> stream = PairStream(ShardIndex.from_urls("data/train"), tokenizer=OpenClipTokenizer(),
        ...                     batch_size=2, samples=SampleOptions(fields=[CaptionGroup()]))
        >>> len(next(iter(stream)).groups)
        2
    """

    def add(self, sample: Sample, context: SampleContext) -> Sample:  # noqa: ARG002 (the tokens are there)
        """See ``SampleField.add``."""
        group = _digest(sample.tokens.numpy().tobytes()) if sample.caption else -1
        return replace(sample, group=group)


@final
class CaptionMask(SampleField):
    """Excludes samples with an empty caption from the contrastive loss: ``batch.pair_mask``.

    ``batch.text_present`` tells so for losses over texts and further modalities. Such samples still
    train the label head. Use it with ``OptionalCaption``, which accepts them.
    """

    def add(self, sample: Sample, context: SampleContext) -> Sample:  # noqa: ARG002 (the caption is there)
        """See ``SampleField.add``."""
        return replace(sample, is_pair=bool(sample.caption), has_text=bool(sample.caption))


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
    return _digest(text.encode("utf-8", "surrogatepass"))


def _digest(data: bytes) -> int:
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest, "big") % _FIRST_DIGEST + _FIRST_DIGEST
