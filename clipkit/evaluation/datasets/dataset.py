"""Evaluation data in CLIP_benchmark's WebDataset layout, or as plain shards.

::

    ROOT/test/nshards.txt                       "2"
    ROOT/test/0.tar  1.tar                      KEY.jpg|png|webp|…, KEY.cls, KEY.txt, KEY.npy
    ROOT/train/…                                for a linear probe
    ROOT/classnames.txt                         one name per line, in the order of the class numbers
    ROOT/zeroshot_classification_templates.txt  one sentence per line, {c} or {} for the name
    ROOT/dataset_type.txt                       "retrieval", "classification" or "multilabel"
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, final

from clipkit.addresses import is_local, local_path
from clipkit.class_names import parse_class_names
from clipkit.data.modalities.field import ModalityField
from clipkit.data.packing.hub import hub_address
from clipkit.data.packing.packed_cache import is_raw, pack_to_cache
from clipkit.data.packing.sound_sets.recognise import (
    is_packed_split,
    is_sound_set,
    set_of_split,
)
from clipkit.data.packing.sources import CLASS_NAMES_FILE
from clipkit.data.samples.content import IMAGES_AND_SOUNDS, sample_errors
from clipkit.data.shards.class_vectors import read_class_vector
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.members import read_classes, read_label, read_value
from clipkit.data.shards.reader import RawSample, ShardReader
from clipkit.data.storage.braces import MAX_NAMES
from clipkit.data.storage.cache import read_small_file
from clipkit.data.storage.urls import UNION, parse_address
from clipkit.data.text.captions import Candidate, CaptionPicker, TextField
from clipkit.errors import ConfigError, DataError, SampleError
from clipkit.evaluation.datasets.queries import IMAGES, QueryModality, query_modality
from clipkit.templates import check_templates

CAPTION_LANGUAGE: Final = "caption:language"
"""In place of a field: the language of each caption, which the caption picker knows."""

_DEFAULT_SPLIT: Final = "test"
_SHOWN_CHARACTERS: Final = 40
_TEMPLATES: Final = "zeroshot_classification_templates.txt"
_CAPTION_LINES: Final = TextField("txt", one_per_line=True)
_TASKS: Final = {
    "retrieval": "retrieval",
    "classification": "zero-shot",
    "image_caption_selection": "pair-choice",
    "multilabel": "zero-shot-multi-label",
}


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


def as_dataset(data: str | Path | EvaluationDataset, split: str) -> EvaluationDataset:
    """Return the data set itself, or open the folder or URL."""
    return data if isinstance(data, EvaluationDataset) else open_dataset(data, split)


def open_dataset(
    source: str | Path,
    split: str = _DEFAULT_SPLIT,
    *,
    caption: CaptionPicker | None = None,
    label_field: str = "cls",
    allow_outside: bool = False,
    modality: str | ModalityField = IMAGES.name,
) -> EvaluationDataset:
    """Open evaluation data.

    Args:
        source: A folder or URL in CLIP_benchmark's layout (also a page
            ``https://huggingface.co/datasets/USER/NAME/tree/BRANCH``), a plain folder of ``.tar``
            shards, or a pattern of shards; or a table or folder of images, which is packed once
            into a cache next to it; or ``hf://datasets/OWNER/NAME/CONFIG/SPLIT``.
        split: Folder inside ``source``, in CLIP_benchmark's layout or of images; or the split of a
            data set of sounds in its published form, such as "fold1".
        caption: Finds the captions of a sample, as in training; None for the lines of its ``.txt``.
        label_field: Where the class of a sample is: a member ("cls") or a field of a JSON member
            ("json:category").
        allow_outside: Whether the images of a table or folder may be outside of its folder.
        modality: What the samples are: "image", "sound", or the field that reads another modality,
            as in ``data.samples.fields``.

    Returns:
        The data set, in the order of the shards.

    Raises:
        DataError: If there are no shards, the split does not exist, or ``dataset_type.txt`` names a
            type without an evaluator.

    Examples:
        >>> data = open_dataset("data/val", caption=JsonFields({"title": 1.0}))
        >>> len(data)
        9
    """
    # The page of a Hugging Face data set and its files differ in this part of the address.
    address = str(source).rstrip("/").replace("/tree/", "/resolve/", 1)
    reopen = partial(
        open_dataset,
        source,
        caption=caption,
        label_field=label_field,
        allow_outside=allow_outside,
        modality=modality,
    )
    queries = query_modality(modality)
    _refuse_split_of_split(address, split)
    name = address.rpartition("/")[2] if "{" not in address else address
    for raw in _to_pack(address, split):
        if is_raw(raw):
            if raw == address:
                _refuse_other_split(address, split)
            listed, templates = _texts_near(raw, address)
            packed = pack_to_cache(raw, class_names=listed or None, allow_outside=allow_outside)
            names = packed.class_names or listed
            index = ShardIndex.from_urls(packed.shards)
            kind = _read_text(f"{packed.shards[0].parent}/dataset_type.txt")
            task = _TASKS[(kind or ("classification" if names else "retrieval")).strip()]
            return EvaluationDataset(
                name, index, names, templates, task, caption, label_field, reopen, queries
            )
    is_folder = not address.endswith(".tar") and UNION not in address
    count = _read_text(f"{address}/{split}/nshards.txt") if is_folder else None
    if count is not None:
        index = ShardIndex.from_urls(_numbered(address, split, count))
    elif is_local(address) and (local_path(address) / split).is_dir():
        index = ShardIndex.from_urls(f"{address}/{split}")
    else:
        _refuse_other_split(address, split)
        index = ShardIndex.from_urls(address)
    described = _describe(_described_folder(address, split))
    return EvaluationDataset(name, index, *described, caption, label_field, reopen, queries)


def _to_pack(address: str, split: str) -> list[str]:
    """Return what is packed if it is a table or folder; a set of sounds has the splits it names."""
    if hub_address(address):
        return [address]
    if not _is_set(address):
        return [f"{address}/{split}", address]
    return [] if is_packed_split(local_path(address), split) else [f"{address}/{split}"]


def _described_folder(address: str, split: str) -> str:
    """Return where the text files are: those of a packed split of a set of sounds are in it."""
    return f"{address}/{split}" if _is_set(address) else address


def _is_set(address: str) -> bool:
    return is_local(address) and local_path(address).is_dir() and is_sound_set(local_path(address))


def _texts_near(raw: str, address: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes and templates in the text files next to a table or folder, or above it.

    A table or folder that lacks a class would otherwise number the others without it.
    """
    if hub_address(raw):
        return (), ()
    path = local_path(raw)
    folders = [path] if path.is_dir() else []
    folders += [path.parent] if path.is_file() or raw != address else []
    names, templates = (
        next(filter(None, (_read_text(f"{folder}/{file}") for folder in folders)), "")
        for file in (CLASS_NAMES_FILE, _TEMPLATES)
    )
    return parse_class_names(names), _templates_in(templates, f"{address}/{_TEMPLATES}")


def _templates_in(text: str, where: str) -> tuple[str, ...]:
    templates = tuple(filter(None, parse_class_names(text)))
    if templates:
        check_templates(templates, where)
    return templates


def _describe(address: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Return class names, templates and task from the text files next to the data."""
    if UNION in address:
        return (), (), _TASKS["classification"]
    folder = address.rpartition("/")[0] if address.endswith(".tar") else address
    kind = (_read_text(f"{folder}/dataset_type.txt") or "classification").strip().lower()
    if kind not in _TASKS:
        raise DataError(
            f"{folder}/dataset_type.txt: expected one of {', '.join(_TASKS)}, got {kind!r}"
        )
    names = parse_class_names(_read_text(f"{folder}/{CLASS_NAMES_FILE}") or "")
    templates = _templates_in(_read_text(f"{folder}/{_TEMPLATES}") or "", f"{folder}/{_TEMPLATES}")
    return names, templates, _TASKS[kind]


def _numbered(address: str, split: str, count: str) -> list[str]:
    try:
        number = int(count)
    except ValueError:
        number = 0
    if not 1 <= number <= MAX_NAMES:
        raise DataError(
            f"{address}/{split}/nshards.txt: expected the number of shards, 1 to {MAX_NAMES:,}, "
            f"got {count.strip()[:_SHOWN_CHARACTERS]!r}"
        )
    return [f"{address}/{split}/{shard}.tar" for shard in range(number)]


def _refuse_split_of_split(address: str, split: str) -> None:
    """Refuse another split of an address that names one; the default is none that was asked for."""
    folder = set_of_split(local_path(address)) if is_local(address) else None
    own = local_path(address).name
    if folder is not None and split not in (_DEFAULT_SPLIT, own):
        raise DataError(
            f"{address}: names the split {own!r}, but the split {split!r} is asked for; expected "
            f"{folder} as data and {own} or {split} as split"
        )


def _refuse_other_split(address: str, split: str) -> None:
    """Refuse data without the split that is asked for; without splits, the default is all."""
    folder, splits = local_path(address), []
    if is_local(address) and folder.is_dir() and not any(folder.glob("*.tar")):
        splits = sorted(path.name for path in folder.iterdir() if any(path.glob("*.tar")))
    if splits:
        raise DataError(f"{address}: has no split {split!r}; it has {', '.join(splits)}")
    if split not in (_DEFAULT_SPLIT, address.rpartition("/")[2]):
        raise DataError(
            f"{address}: expected a split {split!r}, got data without splits; leave the split out "
            f"to read all of it, or put the samples of the split into {address}/{split}"
        )


def _read_text(url: str) -> str | None:
    """Return the text of a small file, or None if there is no such file."""
    data = read_small_file(parse_address(url))
    try:
        return None if data is None else data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{url}: not UTF-8: {error.reason}") from error
