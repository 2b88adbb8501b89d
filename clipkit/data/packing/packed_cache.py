"""Pack tables and folders of images automatically, once, into a cache of shards."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Final

from filelock import FileLock

from clipkit.addresses import is_local, local_path
from clipkit.atomic_files import write_json
from clipkit.class_names import parse_class_names, shown_names
from clipkit.data.packing.hub import hub_address
from clipkit.data.packing.pack import SIZES_FILE, pack
from clipkit.data.packing.sound_sets.recognise import is_sound_set
from clipkit.data.packing.sources import (
    CLASS_NAMES_FILE,
    Source,
    class_folders,
    open_source,
    source_of_shards,
    tables_in,
)
from clipkit.data.packing.subsets import LabelOf, class_of, sample_per_class, split_by_class
from clipkit.data.packing.tables.columns import TableColumns
from clipkit.data.packing.tables.parts import is_pattern
from clipkit.data.packing.tables.row_files import TABLE_SUFFIXES
from clipkit.data.shards.counts import read_counts
from clipkit.data.shards.lost_shards import check_complete
from clipkit.data.shards.named import named_shards
from clipkit.errors import DataError

_LOG = logging.getLogger(__name__)
CACHE_FOLDER: Final = ".clipkit"
ORIGIN_FILE: Final = "origin.json"


@dataclass(frozen=True, slots=True)
class PackedShards:
    """Shards of a packed table or folder.

    Args:
        shards: Paths of the shards, in order.
        class_names: Name of each class by its number; empty if the source has no class names.
    """

    shards: tuple[Path, ...]
    class_names: tuple[str, ...] = ()


def is_raw(source: str | Path) -> bool:
    """Return whether a source is a table or folder that must be packed first."""
    address = str(source)
    if hub_address(source) is not None:
        return True
    if not is_local(address):
        return False
    path = local_path(address)
    if is_pattern(path) or is_sound_set(path):
        return True
    if path.is_file():
        return path.suffix.lower() in TABLE_SUFFIXES
    if not path.is_dir() or any(path.glob("*.tar")) or any(path.glob("[!.]*/*.tar")):
        return False
    return bool(tables_in(path) or class_folders(path))


def pack_to_cache(
    source: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    samples_per_class: int | None = None,
    seed: int = 0,
    allow_outside: bool = False,
    columns: TableColumns = TableColumns(),
    label_of: LabelOf = class_of,
) -> PackedShards:
    """Pack a source into a cache next to it, unless it is packed there already.

    The bytes of the shards depend only on the source, so that a stream resumes exactly even if the
    cache was deleted. A changed image, caption, class or option creates new shards; the previous
    ones stay. Processes wait for the one that packs.
    """
    origin, found = _open(source, class_names, allow_outside, columns)
    if samples_per_class is not None:
        found = sample_per_class(found, samples_per_class, seed, label_of)
    return _packed(origin, found, [samples_per_class, seed, *(class_names or ())])


def pack_classes_to_cache(
    source: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    samples_per_class: int | None = None,
    seed: int = 0,
    allow_outside: bool = False,
    columns: TableColumns = TableColumns(),
    label_of: LabelOf = class_of,
) -> dict[str, PackedShards]:
    """Pack each class separately, as sources of a mixture with equal weights."""
    origin, found = _open(source, class_names, allow_outside, columns)
    if samples_per_class is not None:
        found = sample_per_class(found, samples_per_class, seed, label_of)
    parts = split_by_class(found, label_of)
    names = class_names_in(found.files) if label_of is class_of else ()
    shown = shown_names(names, len(names))
    return {
        shown[label] if label < len(shown) else str(label): _packed(
            origin, part, [samples_per_class, seed, label, *(class_names or ())]
        )
        for label, part in parts.items()
    }


def _open(
    source: str | Path,
    class_names: Sequence[str] | None,
    allow_outside: bool,
    columns: TableColumns,
) -> tuple[str | Path, Source]:
    """Return the origin of the samples, and the samples."""
    origin: str | Path = source
    path = Path(source)
    if is_raw(source) or (path.exists() and path.suffix != ".tar"):
        found = open_source(source, None, class_names, allow_outside, columns)
    else:
        names = named_shards(source).addresses
        check_complete(source, names)
        shards = [shard.path for shard in names if shard.is_local]
        if not shards:
            raise DataError(f"{source}: expected shards on this machine, to choose samples from")
        origin, found = shards[0].parent, source_of_shards(shards)
    return origin, found


def class_names_in(files: Mapping[str, str]) -> tuple[str, ...]:
    """Return the class names in the text files of a source."""
    return parse_class_names(files.get(CLASS_NAMES_FILE, ""))


def _packed(origin: str | Path, source: Source, choice: Sequence[int | str | None]) -> PackedShards:
    names = class_names_in(source.files)
    recipe = json.dumps([source.fingerprint(), names], ensure_ascii=False)
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    folders = [cache / f"{_stem(origin)}-{key}" for cache in _caches(origin)]
    folder = next((known for known in folders if (known / SIZES_FILE).is_file()), None)
    if folder is None:
        folder = _pack_into_first(source, folders)
        _note_origin(origin, folder, choice)
    return PackedShards(_whole(folder), names)


def _whole(folder: Path) -> tuple[Path, ...]:
    """Return the shards of a packed folder, in order."""
    shards = [folder / name for name in sorted(read_counts(folder / SIZES_FILE))]
    if lost := [shard.name for shard in shards if not shard.is_file()]:
        raise DataError(
            f"{folder}: {', '.join(lost)} is missing from the packed shards; remove the "
            f"folder to have it packed again"
        )
    return tuple(shards)


def _note_origin(origin: str | Path, folder: Path, choice: Sequence[int | str | None]) -> None:
    """Record the source of a packed folder, and report the folder of an earlier state."""
    is_hub = hub_address(origin) is not None
    record = {
        "source": str(origin) if is_hub else str(Path(origin).resolve()),
        "choice": list(choice),
    }
    for other in folder.parent.glob(f"{escape(_stem(origin))}-*/{ORIGIN_FILE}"):
        try:
            is_former = json.loads(other.read_text(encoding="utf-8")) == record
        except (OSError, ValueError):
            continue
        if is_former and other.parent != folder:
            _LOG.warning(
                "%s or its images changed since it was packed into %s, which you may delete; "
                "packed again into %s",
                origin,
                other.parent,
                folder,
            )
    try:
        write_json(folder / ORIGIN_FILE, record)
    except OSError as error:
        _LOG.warning("%s: not written: %s", folder / ORIGIN_FILE, error.strerror or error)


def _stem(origin: str | Path) -> str:
    """Return the beginning of the names of an origin's packed folders."""
    if (address := hub_address(origin)) is not None:
        stem = "-".join([*address.repo.split("/"), *address.path.split("/")]).strip("-")
    else:
        stem = Path(origin).stem
    return re.sub(r"[*?\[\]]", "_", stem)


def _caches(origin: str | Path) -> list[Path]:
    """Return the folders for packed shards: next to the source, then in the user's cache."""
    home = Path(os.environ.get("CLIPKIT_CACHE") or Path.home() / ".cache" / "clipkit") / "packed"
    if hub_address(origin) is not None:
        return [home]
    return [Path(origin).resolve().parent / CACHE_FOLDER, home]


def _pack_into_first(source: Source, folders: Sequence[Path]) -> Path:
    """Pack into the first folder that can be written, and return it."""
    refusals = []
    for folder in folders:
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(f"{folder}.lock"):
                _pack_whole(source, folder)
            return folder
        except OSError as error:
            refusals.append(f"{folder}: {error.strerror or error}")
            _LOG.warning("not packed into %s", refusals[-1])
    raise DataError(
        f"these data are packed into shards first, and no folder for them can be written: "
        f"{'; '.join(refusals)}; free some space, or set CLIPKIT_CACHE to another folder"
    )


def _pack_whole(source: Source, folder: Path) -> None:
    """Pack unless another process did; remove an incomplete folder after an error of the disk."""
    if (folder / SIZES_FILE).is_file():
        return
    try:
        pack(source, folder, num_workers=min(4, os.cpu_count() or 1))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
