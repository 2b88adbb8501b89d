"""Evaluation data in CLIP_benchmark's WebDataset layout, or as plain shards.

::

    ROOT/test/nshards.txt                       "2"
    ROOT/test/0.tar  1.tar                      KEY.jpg|jpeg|png|webp, KEY.cls, KEY.txt
    ROOT/train/…                                for a linear probe
    ROOT/classnames.txt                         one name a line, in the order of the class numbers
    ROOT/zeroshot_classification_templates.txt  one sentence per line, {c} or {} for the name
    ROOT/dataset_type.txt                       "retrieval" or "classification"
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from clipkit.class_names import parse_class_names
from clipkit.data.images.formats import IMAGE_EXTENSIONS
from clipkit.data.packing.packed_cache import is_raw, prepare
from clipkit.data.samples.maker import CONTENT_ERRORS
from clipkit.data.shards.index import ShardIndex
from clipkit.data.shards.members import read_classes, read_label
from clipkit.data.shards.reader import ShardReader
from clipkit.data.storage.braces import MAX_NAMES
from clipkit.data.storage.remote import Retries
from clipkit.data.storage.urls import UNION, file_system, is_local, local_path
from clipkit.errors import DataError, SampleError, ShardError
from clipkit.templates import check_templates

# CLIP_benchmark's come first, in its order; then what a stream takes too.
_IMAGE_MEMBERS: Final = tuple(dict.fromkeys(("webp", "png", "jpg", "jpeg", *IMAGE_EXTENSIONS)))
_SHOWN_CHARACTERS: Final = 40
_TEMPLATES: Final = "zeroshot_classification_templates.txt"
_RETRIES: Final = Retries(count=3, backoff_seconds=1.0)
_TASKS: Final = {"retrieval": "retrieval", "classification": "zero-shot"}


@dataclass(frozen=True, slots=True)
class EvaluationSample:
    """A picture as a file, its captions, and its class.

    Args:
        key: The sample's name inside its shard.
        image: The bytes of an image file.
        captions: The lines of the ``txt`` member; none where it has no such member.
        label: The number in the ``cls`` member, ``IGNORE_LABEL`` where it has none.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    label: int


@final
class EvaluationDataset:
    """Pictures with captions, classes, or both, read at random.

    Args:
        name: What messages and reports call it.
        index: The shards.
        class_names: Names of the classes, empty for a number without a name; none where the data
            bring none.
        templates: Sentences with ``{}`` or ``{c}`` for the class name; empty if the data have none.
        task: The task the data were made for: "retrieval" or "zero-shot".
        root: Folder or URL that other splits lie in; None where there is none.

    Examples:
        >>> data = open_dataset("data/val")
        >>> data.class_names[data.sample(0).label]
        'red'
    """

    def __init__(
        self,
        name: str,
        index: ShardIndex,
        class_names: tuple[str, ...] = (),
        templates: tuple[str, ...] = (),
        task: str = "zero-shot",
        root: str | None = None,
    ) -> None:
        self.name = name
        self.class_names = class_names
        self.templates = templates
        self.task = task
        self.root = root
        self._index = index
        self._reader = ShardReader(index)

    def __len__(self) -> int:
        return len(self._index)

    def sample(self, sample_id: int) -> EvaluationSample:
        """One sample, as it lies in its shard.

        Args:
            sample_id: Its position in the whole data set.

        Returns:
            The sample; its picture is not decoded yet.

        Raises:
            SampleError: If it has no picture, or its text or label cannot be read.
        """
        raw = self._reader.read(sample_id)
        image = next((raw.members[kind] for kind in _IMAGE_MEMBERS if kind in raw.members), None)
        if image is None:
            found = ", ".join(raw.members)
            raise SampleError(
                f"expected a picture ({', '.join(_IMAGE_MEMBERS)}), got {found}",
                shard=raw.shard,
                key=raw.key,
            )
        with self.blame(raw.key):
            captions = _captions(raw.members.get("txt", b""))
            label = read_label(raw.members, "cls")
        return EvaluationSample(raw.key, image, captions, label)

    def classes(self, sample_id: int) -> tuple[int, ...] | None:
        """The classes of a sample that may have several: the list ``labels`` in its JSON member.

        Args:
            sample_id: Its position in the whole data set.

        Returns:
            Class numbers; None where the sample has no such list.

        Raises:
            SampleError: If it has one that holds anything but numbers of classes.
        """
        raw = self._reader.read(sample_id)
        with self.blame(raw.key):
            found = read_classes(raw.members)
        return None if found is None else tuple(found)

    @contextmanager
    def blame(self, key: str) -> Iterator[None]:
        """Turn what decoders raise over broken content into a ``SampleError`` with a name.

        An ``OSError`` with a number comes from the operating system and goes through.
        """
        try:
            yield
        except SampleError as error:
            raise SampleError(error.reason, shard=self.name, key=key) from error
        except CONTENT_ERRORS as error:
            raise SampleError(f"cannot be decoded: {error}", shard=self.name, key=key) from error
        except OSError as error:
            if error.errno is not None:
                raise
            raise SampleError(f"cannot be decoded: {error}", shard=self.name, key=key) from error


def as_dataset(data: str | Path | EvaluationDataset, split: str) -> EvaluationDataset:
    """The data set itself, or the one that a folder or URL holds."""
    return data if isinstance(data, EvaluationDataset) else open_dataset(data, split)


def open_dataset(
    source: str | Path, split: str = "test", *, allow_outside: bool = False
) -> EvaluationDataset:
    """Open a folder or URL.

    Args:
        source: A folder or URL in CLIP_benchmark's layout (also a page
            ``https://huggingface.co/datasets/USER/NAME/tree/BRANCH``), a plain folder of ``.tar``
            shards, or a pattern of shards; or a table or folder of pictures, which is packed once
            into a cache beside it.
        split: Folder inside ``source``, in CLIP_benchmark's layout or of pictures.
        allow_outside: Whether the images of a table or folder may be outside of its folder.

    Returns:
        The data set. Its order is that of the shards.

    Raises:
        DataError: If there are no shards, the split does not exist, or the data are of a kind
            that no evaluator here reads.
    """
    # The page of a Hugging Face data set and its files differ in this part of the address.
    address = str(source).rstrip("/").replace("/tree/", "/resolve/", 1)
    name = address.rpartition("/")[2] if "{" not in address else address
    for raw in (f"{address}/{split}", address):
        if is_raw(raw):
            return _open_raw(raw, name, address, allow_outside)
    is_folder = not address.endswith(".tar") and UNION not in address
    count = _read_text(f"{address}/{split}/nshards.txt") if is_folder else None
    if count is not None:
        index = ShardIndex.from_urls(_numbered(address, split, count))
    elif is_local(address) and (local_path(address) / split).is_dir():
        index = ShardIndex.from_urls(f"{address}/{split}")
    else:
        _refuse_other_split(address, split)
        index = ShardIndex.from_urls(address)
    return EvaluationDataset(name, index, *_describe(address), root=address)


def _open_raw(raw: str, name: str, address: str, allow_outside: bool) -> EvaluationDataset:
    """A table or folder of pictures; what has classes is for classification."""
    prepared = prepare(raw, allow_outside=allow_outside)
    index = ShardIndex.from_urls(prepared.shards)
    task = _TASKS["classification" if prepared.class_names else "retrieval"]
    return EvaluationDataset(name, index, prepared.class_names, task=task, root=address)


def _describe(address: str) -> tuple[tuple[str, ...], tuple[str, ...], str]:
    """Names of classes, templates and task, out of the text files beside the data."""
    if UNION in address:
        return (), (), _TASKS["classification"]
    folder = address.rpartition("/")[0] if address.endswith(".tar") else address
    kind = (_read_text(f"{folder}/dataset_type.txt") or "classification").strip().lower()
    if kind not in _TASKS:
        raise DataError(f"{folder}/dataset_type.txt: expected {' or '.join(_TASKS)}, got {kind!r}")
    names = parse_class_names(_read_text(f"{folder}/classnames.txt") or "")
    templates = _lines(_read_text(f"{folder}/{_TEMPLATES}"))
    if templates:
        check_templates(templates, f"{folder}/{_TEMPLATES}")
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


def _refuse_other_split(address: str, split: str) -> None:
    folder = local_path(address)
    if not is_local(address) or not folder.is_dir():
        return
    splits = sorted(path.name for path in folder.iterdir() if any(path.glob("*.tar")))
    if splits and not any(folder.glob("*.tar")):
        raise DataError(f"{address}: has no split {split!r}; it has {', '.join(splits)}")


def _read_text(url: str) -> str | None:
    """The text of a small file, None where there is no such file."""
    try:
        if is_local(url):
            return local_path(url).read_text(encoding="utf-8")
        system, path = file_system(url)
        data: bytes = _RETRIES.run(url, lambda: system.cat_file(path), lambda: 0)
        return data.decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ShardError as error:
        if isinstance(error.__cause__, FileNotFoundError):
            return None
        raise
    except (OSError, ValueError) as error:
        raise DataError(f"{url}: cannot be read: {error}") from error


def _captions(data: bytes) -> tuple[str, ...]:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise SampleError(f"member txt: not UTF-8: {error.reason}") from None
    return tuple(line for line in text.splitlines() if line.strip())


def _lines(text: str | None) -> tuple[str, ...]:
    return tuple(line.strip() for line in (text or "").splitlines() if line.strip())
