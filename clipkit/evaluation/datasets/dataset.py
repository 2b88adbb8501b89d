"""Samples of evaluation data, with random access; ``opening.py`` finds the data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Final, final

from clipkit.data.samples.content import IMAGES_AND_SOUNDS, sample_errors
from clipkit.data.shards.class_vectors import read_class_vector
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.members import read_classes, read_label, read_value
from clipkit.data.shards.reader import RawSample, ShardReader
from clipkit.data.text.captions import Candidate, CaptionPicker, TextField
from clipkit.errors import ConfigError, DataError, SampleError
from clipkit.evaluation.datasets.queries import IMAGES, QueryModality

CAPTION_LANGUAGE: Final = "caption:language"
"""In place of a field: the language of each caption, which the caption picker knows."""

_CAPTION_LINES: Final = TextField("txt", one_per_line=True)


@dataclass(frozen=True, slots=True)
class EvaluationSample:
    """File of a sample, such as an image, with its captions and its class.

    Args:
        key: Name of the sample inside its shard.
        image: Bytes of the image file, or of the file of the data's modality.
        captions: Every caption of the sample; empty if it has none.
        label: Number of its class; ``IGNORE_LABEL`` if it has none.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    label: int


@final
class EvaluationDataset:
    """Images or sounds with captions, classes, or both, with random access.

    Samples are read as in training: any caption picker and label field that a ``PairStream`` takes
    can be used here too, and all captions that the picker offers count.

    Args:
        name: Name of the data in messages and reports.
        index: The shards.
        class_names: Name of each class by its number, empty for a number without a name; no names
            at all if the data have none.
        templates: Sentences with ``{}`` or ``{c}`` for the class name; empty if the data have none.
        task: Task that the data were made for: "retrieval", "zero-shot" or
            "zero-shot-multi-label".
        caption: Finds the captions of a sample; None for the lines of its ``.txt``.
        label_field: Where the class of a sample is: a member ("cls") or a field of a JSON member
            ("json:category").
        reopen: Function that opens another split of the same data; None if there are no others.
        modality: What the samples are.

    Raises:
        ConfigError: If the index has a mask: an evaluation is of all samples.

    Examples:
        >>> data = open_dataset("data/val")
        >>> data.class_names[data.sample(0).label]
        'red'
    """

    variant = ""

    def __init__(
        self,
        name: str,
        index: ShardIndex,
        class_names: tuple[str, ...] = (),
        templates: tuple[str, ...] = (),
        task: str = "zero-shot",
        caption: CaptionPicker | None = None,
        label_field: str = "cls",
        reopen: Callable[[str], EvaluationDataset] | None = None,
        modality: QueryModality = IMAGES,
    ) -> None:
        if index.mask is not None:
            raise ConfigError(f"{name}: expected an index without a mask, got {index.mask.name}")
        self.name = name
        self.class_names = class_names
        self.templates = templates
        self.task = task
        self.caption = caption or _CAPTION_LINES
        self.label_field = label_field
        self.index = index
        self.modality = modality
        self._reopen = reopen
        self._reader = ShardReader(index)

    def __len__(self) -> int:
        return self._reader.num_samples

    @property
    def identity(self) -> tuple[tuple[str, ...], int, str, tuple[str, int]]:
        """Equal for data sets of this process that read the same samples in the same way."""
        shards = tuple(str(shard.address) for shard in self.index.shards)
        return shards, id(self.caption), self.label_field, self.modality.identity

    def sample(self, sample_id: int) -> EvaluationSample:
        """Read one sample.

        Args:
            sample_id: Position of the sample in the data set.

        Returns:
            The sample; its file is not decoded yet.

        Raises:
            SampleError: If it lacks the modality of the data, or its text or label cannot be read.
        """
        raw = self._reader.read(sample_id)
        with sample_errors(self.name, raw.key):
            return EvaluationSample(
                raw.key,
                self.modality.member(raw.members),
                self.captions_of(raw.members),
                read_label(raw.members, self.label_field),
            )

    def members(self, sample_id: int, leave_out: Collection[str] = ()) -> RawSample:
        """Read the files of one sample, which may lack an image.

        Args:
            sample_id: Position of the sample in the data set.
            leave_out: Extensions of members that are not read.
        """
        return self._reader.read(sample_id, leave_out=leave_out)

    def captions_of(self, members: Mapping[str, bytes]) -> tuple[str, ...]:
        """Return every caption among the files of a sample; empty if it has none.

        Raises:
            SampleError: If they cannot be read.
        """
        return tuple(caption.text for caption in self._captions(members))

    def classes(self, sample_id: int, field: str = "json:labels") -> tuple[int, ...] | None:
        """Read the classes of a sample that may have several.

        Args:
            sample_id: Position of the sample in the data set.
            field: Field of a JSON member that lists numbers of classes ("json:labels"), or a
                ``.npy`` member with a vector of zeros and ones ("npy").

        Returns:
            Class numbers; None if the sample has no such list.

        Raises:
            SampleError: If the list holds anything but numbers of classes, or the vector has
                another length than the list of class names.
        """
        raw = self._reader.read(sample_id, leave_out=IMAGES_AND_SOUNDS)
        with sample_errors(self.name, raw.key):
            if ":" in field or not field.endswith("npy"):
                numbers = read_classes(raw.members, field)
                return None if numbers is None else tuple(numbers)
            if field not in raw.members:
                return None
            numbers, length = read_class_vector(raw.members[field], field)
            if self.class_names and length != len(self.class_names):
                raise SampleError(
                    f"member {field!r}: expected {len(self.class_names)} values, one for each "
                    f"class of classnames.txt, got {length}"
                )
        return tuple(numbers)

    def without_file(self, sample_id: int) -> EvaluationSample:
        """Read key, captions and class of a sample, but neither image nor sound, which it may lack.

        Args:
            sample_id: Position of the sample in the data set.

        Returns:
            The sample, with an empty file.

        Raises:
            SampleError: If its text or label cannot be read.
        """
        raw = self._reader.read(sample_id, leave_out=IMAGES_AND_SOUNDS)
        with sample_errors(self.name, raw.key):
            captions = tuple(caption.text for caption in self._captions(raw.members))
            return EvaluationSample(
                raw.key, b"", captions, read_label(raw.members, self.label_field)
            )

    def value(self, sample_id: int, field: str) -> str | None:
        """Read a value that describes a sample, such as its patient, product or language.

        Args:
            sample_id: Position of the sample in the data set.
            field: A member ("txt") or a field of a JSON member ("json:patient_id").

        Returns:
            The value as text; None if the sample has none.

        Raises:
            SampleError: If the member cannot be read, or the value is a list or an object.

        Examples:
            >>> open_dataset("data/val").value(0, "cls")
            '0'
        """
        raw = self._reader.read(sample_id, leave_out=IMAGES_AND_SOUNDS)
        with sample_errors(self.name, raw.key):
            value = read_value(raw.members, field)
            if isinstance(value, list | dict):
                raise SampleError(f"{field}: expected a text or number, got {value!r}")
        return None if value is None or not str(value).strip() else str(value).strip()

    def content(self, sample_id: int, field: str) -> Any:
        """Read a value of any type that describes a sample.

        Args:
            sample_id: Position of the sample in the data set.
            field: A member ("txt") or a field of a JSON member ("json:captions"), or
                ``CAPTION_LANGUAGE`` for the language of each caption.

        Returns:
            The text of the member, or the value of the field in JSON's types; None if there is
            none.

        Raises:
            SampleError: If the member cannot be read, or a caption has no language.
        """
        raw = self._reader.read(sample_id, leave_out=IMAGES_AND_SOUNDS)
        with sample_errors(self.name, raw.key):
            if field != CAPTION_LANGUAGE:
                return read_value(raw.members, field)
            captions = self._captions(raw.members)
            if unknown := next((c.text for c in captions if not c.language), None):
                raise SampleError(
                    f"{field}: {self.caption.source} gives no language for {unknown!r:.60}; "
                    f"expected captions by language, such as json:caption_{{language}} or "
                    f"txt.{{language}}"
                )
            return [caption.language for caption in captions]

    def _captions(self, members: Mapping[str, bytes]) -> list[Candidate]:
        """Return the captions that the picker may select."""
        return [c for c in self.caption.candidates(members) if c.weight > 0 and c.text]

    def with_split(self, split: str) -> EvaluationDataset:
        """Open another split of the same data.

        Raises:
            DataError: If the split does not exist, or contains the same files.
        """
        if self._reopen is None:
            raise DataError(f"{self.name}: has no other splits; open the data with open_dataset")
        other = self._reopen(split)
        addresses, others = (
            {str(shard.address) for shard in data.index.shards} for data in (self, other)
        )
        if addresses & others:
            raise DataError(
                f"{self.name}: the split {split!r} has files of the split that is measured; "
                f"expected another split, in its own folder {self.name}/{split}"
            )
        return other
