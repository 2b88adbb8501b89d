"""Read every sample once, and keep what a split needs: hashes and numbers instead of contents."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final, final

import numpy as np

from clipkit.data.images.formats import DEFAULT_MAX_PIXELS, image_member, open_image
from clipkit.data.images.perceptual_hash import WIDTH, Signatures, image_signature
from clipkit.data.packing.items import Item
from clipkit.data.packing.tables.table import as_json
from clipkit.data.samples.content import sample_errors
from clipkit.data.shards.members import parsed_json, read_label, read_value
from clipkit.data.text.captions import TextField
from clipkit.data.text.scripts import script_of
from clipkit.errors import FaultBudgetExceeded, SampleError
from clipkit.evaluation.building.duplicates.caption_duplicates import CaptionWords
from clipkit.evaluation.building.options import SampleFields
from clipkit.types import IGNORE_LABEL

OnProgress = Callable[[str, int, int | None], None]
"""Called with the stage, and the numbers of completed and of all steps."""

_SAMPLES_AT_ONCE: Final = 256
_SHOWN_FAULTS: Final = 5


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """What is kept of one sample.

    Args:
        key: Name of the sample.
        signature: Perceptual hashes of the image.
        digest: Hash of the image file.
        size: Width and height in pixels.
        num_bytes: Size of the image file.
        captions: Captions, each on one line.
        label: Class number; ``IGNORE_LABEL`` if there is none.
        values: Texts of the further fields, in their order; "" if a field is absent.
    """

    key: str
    signature: np.ndarray
    digest: int
    size: tuple[int, int]
    num_bytes: int
    captions: tuple[str, ...]
    label: int
    values: tuple[str, ...]


@final
class FieldValues:
    """The values of a field in all samples: a number for each sample, and each text once."""

    def __init__(self) -> None:
        self.numbers = array("q")
        self.texts: dict[str, int] = {"": -1}

    def append(self, text: str) -> None:
        """Append the value of a sample; "" if it has none."""
        self.numbers.append(self.texts.setdefault(text, len(self.texts) - 1))

    def array(self) -> np.ndarray:
        """Return the number of each sample's value; -1 for no value."""
        return np.asarray(self.numbers)

    def counts(self, chosen: np.ndarray) -> dict[str, int]:
        """Count the values of some samples, by text; "" for no value."""
        counts = Counter(self.array()[chosen].tolist())
        return {text: counts[number] for text, number in self.texts.items() if counts[number]}


@dataclass(slots=True)
class ScannedPairs:
    """All usable samples of a source, in order.

    Args:
        fields: Names of the further fields, such as "json:language".
        items: Position of each sample in the source.
        keys: Name of each sample.
        signatures: Perceptual hashes of all images, row by row.
        digests: Hash of each image file.
        sizes: Width and height of each image.
        num_bytes: Size of each image file.
        labels: Class of each sample.
        captions: Words of the captions.
        values: Values of the further fields, by name.
        scripts: Number of captions by script of writing.
        faults: ``(sample, reason)`` of each sample that was left out.
    """

    fields: tuple[str, ...]
    items: array[int] = field(default_factory=lambda: array("q"))
    keys: list[str] = field(default_factory=list)
    signatures: array[int] = field(default_factory=lambda: array("Q"))
    digests: array[int] = field(default_factory=lambda: array("Q"))
    sizes: array[int] = field(default_factory=lambda: array("q"))
    num_bytes: array[int] = field(default_factory=lambda: array("q"))
    labels: array[int] = field(default_factory=lambda: array("q"))
    captions: CaptionWords = field(default_factory=CaptionWords)
    values: dict[str, FieldValues] = field(default_factory=dict)
    scripts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[str, str]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.keys)

    def append(self, item: int, facts: SampleFacts) -> None:
        """Append a sample."""
        for caption in facts.captions:
            self.captions.append(len(self.keys), caption)
            self.scripts[script_of(caption)] += 1
        self.items.append(item)
        self.keys.append(facts.key)
        self.signatures.extend(facts.signature.tolist())
        self.digests.append(facts.digest)
        self.sizes.extend(facts.size)
        self.num_bytes.append(facts.num_bytes)
        self.labels.append(facts.label)
        for name, text in zip(self.fields, facts.values, strict=True):
            self.values.setdefault(name, FieldValues()).append(text)

    def signature_rows(self) -> Signatures:
        """Return the perceptual hashes, one row per image."""
        return np.asarray(self.signatures).reshape(-1, WIDTH)


def scan_pairs(
    items: Sequence[Item],
    fields: SampleFields,
    further: Sequence[str],
    *,
    max_bad_samples: int,
    num_workers: int,
    on_progress: OnProgress,
) -> ScannedPairs:
    """Read all samples.

    Args:
        items: Samples of the source.
        fields: Where captions and classes are.
        further: Names of further fields that are kept.
        max_bad_samples: Largest number of broken samples that are left out.
        num_workers: Number of threads.
        on_progress: Called after each batch of samples.

    Raises:
        FaultBudgetExceeded: If more samples are broken.
    """
    pairs = ScannedPairs(tuple(dict.fromkeys(further)))

    def read(job: tuple[int, Item]) -> SampleFacts | SampleError:
        number, item = job
        key = item.key or f"{number:09d}"
        try:
            with sample_errors():
                return sample_facts(key, item.members(), fields, pairs.fields)
        except SampleError as error:
            return SampleError(error.reason, key=error.key or key)

    with ThreadPoolExecutor(num_workers) as pool:
        for batch in _batches(enumerate(items)):
            for (number, _), facts in zip(batch, pool.map(read, batch), strict=True):
                if isinstance(facts, SampleError):
                    pairs.faults.append((facts.key, facts.reason))
                    _check_faults(pairs.faults, max_bad_samples)
                else:
                    pairs.append(number, facts)
            on_progress("reading", batch[-1][0] + 1, len(items))
    return pairs


def sample_facts(
    key: str, members: Mapping[str, bytes], fields: SampleFields, further: Sequence[str]
) -> SampleFacts:
    """Read one sample.

    Raises:
        SampleError: If its image or a text is broken, or it has neither a caption nor a class.
    """
    image = image_member(members)
    captions, label = captions_of(members, fields), read_label(members, fields.label)
    if not captions and label == IGNORE_LABEL:
        raise SampleError("has neither a caption nor a class")
    # Raises for lone surrogates, which JSON can hold and no text can be written with.
    as_json({**json_object(members), "captions": list(captions)})
    return SampleFacts(
        key,
        image_signature(image),
        int.from_bytes(hashlib.blake2b(image, digest_size=8).digest(), "little"),
        open_image(image, DEFAULT_MAX_PIXELS).size,
        len(image),
        captions,
        label,
        tuple(_text_of(name, read_value(members, name)) for name in further),
    )


def captions_of(members: Mapping[str, bytes], fields: SampleFields) -> tuple[str, ...]:
    """Return the captions of a sample, each on one line and once."""
    picker = fields.caption or TextField("txt", one_per_line=True)
    texts = (" ".join(c.text.split()) for c in picker.candidates(members) if c.weight > 0)
    return tuple(dict.fromkeys(filter(None, texts)))


def json_object(members: Mapping[str, bytes]) -> dict[str, Any]:
    """Return the object in ``json``; any other value becomes the field ``json`` of an object."""
    if "json" not in members:
        return {}
    content = parsed_json(members["json"], "json")
    return content if isinstance(content, dict) else {"json": content}


def _text_of(name: str, value: object) -> str:
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if isinstance(value, bool | int | float):
        return str(value)
    raise SampleError(f"{name}: expected a text or number, got {value!r}")


def _check_faults(faults: list[tuple[str, str]], most: int) -> None:
    if len(faults) > most:
        named = "\n  ".join(f"{key}: {reason}" for key, reason in faults[:_SHOWN_FAULTS])
        raise FaultBudgetExceeded(
            f"{len(faults)} samples cannot be used (allowed: max_bad_samples={most}):\n  {named}"
        )


def _batches(jobs: Iterator[tuple[int, Item]]) -> Iterator[list[tuple[int, Item]]]:
    while batch := list(islice(jobs, _SAMPLES_AT_ONCE)):
        yield batch
