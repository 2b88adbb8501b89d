"""Open evaluation data in CLIP_benchmark's WebDataset layout, or as plain shards.

::

    ROOT/test/nshards.txt                       "2"
    ROOT/test/0.tar  1.tar                      KEY.jpg|png|webp|…, KEY.cls, KEY.txt, KEY.npy
    ROOT/train/…                                for a linear probe
    ROOT/classnames.txt                         one name per line, in the order of the class numbers
    ROOT/zeroshot_classification_templates.txt  one sentence per line, {c} or {} for the name
    ROOT/dataset_type.txt                       "retrieval", "classification" or "multilabel"
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Final

from clipkit.addresses import is_local, local_path
from clipkit.data.modalities.field import ModalityField
from clipkit.data.packing.hub import hub_address
from clipkit.data.packing.packed_cache import is_raw, pack_to_cache
from clipkit.data.packing.sound_sets.recognise import (
    is_packed_split,
    is_sound_set,
    set_of_split,
)
from clipkit.data.shards.index import ShardIndex
from clipkit.data.storage.braces import MAX_NAMES
from clipkit.data.storage.urls import UNION
from clipkit.data.text.captions import CaptionPicker
from clipkit.errors import DataError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.description import (
    TASK_OF_TYPE,
    TYPE_FILE,
    Description,
    describe,
    read_text,
    texts_near,
)
from clipkit.evaluation.datasets.queries import IMAGES, query_modality

_DEFAULT_SPLIT: Final = "test"
_SHOWN_CHARACTERS: Final = 40


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
    raw = next(filter(is_raw, _to_pack(address, split)), None)
    if raw is None:
        index = _index(address, split)
        description = describe(_described_folder(address, split))
    else:
        if raw == address:
            _refuse_other_split(address, split)
        index, description = _packed(raw, address, allow_outside)
    return EvaluationDataset(
        name, index, description.class_names, description.templates, description.task,
        caption, label_field, reopen, queries,
    )  # fmt: skip


def _packed(raw: str, address: str, allow_outside: bool) -> tuple[ShardIndex, Description]:
    """Pack a table or folder, and return its shards and what describes them."""
    listed, templates = texts_near(raw, address)
    packed = pack_to_cache(raw, class_names=listed or None, allow_outside=allow_outside)
    names = packed.class_names or listed
    kind = read_text(f"{packed.shards[0].parent}/{TYPE_FILE}")
    task = TASK_OF_TYPE[(kind or ("classification" if names else "retrieval")).strip()]
    return ShardIndex.from_urls(packed.shards), Description(names, templates, task)


def _index(address: str, split: str) -> ShardIndex:
    """Return the shards of a split, or all if the data have no splits."""
    is_folder = not address.endswith(".tar") and UNION not in address
    count = read_text(f"{address}/{split}/nshards.txt") if is_folder else None
    if count is not None:
        return ShardIndex.from_urls(_numbered(address, split, count))
    if is_local(address) and (local_path(address) / split).is_dir():
        return ShardIndex.from_urls(f"{address}/{split}")
    _refuse_other_split(address, split)
    return ShardIndex.from_urls(address)


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
