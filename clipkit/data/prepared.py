"""Tables and folders of pictures as shards, without packing by hand: packed once, into a cache."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from filelock import FileLock

from clipkit.data.choosing import by_class, few_of_each
from clipkit.data.counts import named_shards, read_counts
from clipkit.data.lost_shards import check_complete
from clipkit.data.packing import SIZES_FILE, pack
from clipkit.data.packing_sources import (
    CLASS_NAMES_FILE,
    Source,
    class_folders,
    open_source,
    source_of_shards,
    tables_in,
)
from clipkit.data.packing_tables import TABLE_SUFFIXES
from clipkit.data.urls import is_local, local_path
from clipkit.errors import DataError

_LOG = logging.getLogger(__name__)
CACHE_FOLDER: Final = ".clipkit"


@dataclass(frozen=True, slots=True)
class Prepared:
    """Shards that stand for a table or folder.

    Args:
        shards: Paths, in order.
        class_names: In the order of the class numbers; none where the source names no classes.
    """

    shards: tuple[Path, ...]
    class_names: tuple[str, ...] = ()


def is_raw(source: str | Path) -> bool:
    """Whether a source is no set of shards but a table or folder that has to be packed first.

    Args:
        source: A path, URL or pattern.

    Returns:
        True for an existing local table, or a folder that holds no tar and one table or folders.
    """
    address = str(source)
    if not is_local(address):
        return False
    path = local_path(address)
    if path.is_file():
        return path.suffix.lower() in TABLE_SUFFIXES
    if not path.is_dir() or any(path.glob("*.tar")) or any(path.glob("*/*.tar")):
        return False
    return bool(tables_in(path) or class_folders(path))


def prepare(
    source: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    samples_per_class: int | None = None,
    seed: int = 0,
) -> Prepared:
    """Pack a source into a cache beside it, or find there what was packed before.

    The shards' bytes follow from the source's, so a stream over them has one order and resumes
    exactly, also when the cache was removed in between. A changed picture, caption, class or option
    makes shards of its own; the former stay. Processes wait for the one that packs.

    Args:
        source: What ``pack`` takes, or a pattern of shards on this machine.
        class_names: Numbers the classes of a source that tells them by name, as those of the
            training data number those of the validation data.
        samples_per_class: Only so many of each class, chosen by ``seed``.
        seed: Of that choice.

    Returns:
        The shards.

    Raises:
        DataError: If the source cannot be packed.
    """
    path, found = _open(source, class_names, samples_per_class, seed)
    return _packed(path, found)


def prepare_classes(
    source: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    samples_per_class: int | None = None,
    seed: int = 0,
) -> dict[str, Prepared]:
    """As ``prepare``, each class on its own: the sources of a mixture that shows all alike.

    Args:
        source: As for ``prepare``, with classes.
        class_names: As for ``prepare``.
        samples_per_class: As for ``prepare``.
        seed: Of that choice.

    Returns:
        Name of the class, or its number -> its shards, by number.

    Raises:
        DataError: If the source cannot be packed or tells no classes.
    """
    path, found = _open(source, class_names, samples_per_class, seed)
    names = found.files.get(CLASS_NAMES_FILE, "").splitlines()
    return {
        names[label] if label < len(names) else str(label): _packed(path, part)
        for label, part in by_class(found).items()
    }


def _open(
    source: str | Path, class_names: Sequence[str] | None, samples_per_class: int | None, seed: int
) -> tuple[Path, Source]:
    """The chosen samples, and the file or folder that the cache lies beside."""
    path = Path(source)
    if path.exists() and path.suffix != ".tar":
        found = open_source(path, class_names=class_names)
    else:
        names, _ = named_shards(source)
        check_complete(source, names)
        shards = [shard.path for shard in names if shard.is_local]
        if not shards:
            raise DataError(f"{source}: expected shards on this machine, to choose samples from")
        path, found = shards[0].parent, source_of_shards(shards)
    if samples_per_class is not None:
        found = few_of_each(found, samples_per_class, seed)
    return path, found


def _packed(path: Path, source: Source) -> Prepared:
    names = tuple(source.files.get(CLASS_NAMES_FILE, "").splitlines())
    recipe = json.dumps([source.fingerprint(), names], ensure_ascii=False)
    key = hashlib.sha256(recipe.encode()).hexdigest()[:12]
    folders = [cache / f"{path.stem}-{key}" for cache in _caches(path)]
    folder = next((known for known in folders if (known / SIZES_FILE).is_file()), None)
    folder = folder or _pack_into_first(source, folders)
    return Prepared(_whole(folder), names)


def _whole(folder: Path) -> tuple[Path, ...]:
    """Return the shards of a packed folder, in order.

    Raises:
        DataError: If one of them is gone.
    """
    shards = [folder / name for name in sorted(read_counts(folder / SIZES_FILE))]
    if lost := [shard.name for shard in shards if not shard.is_file()]:
        raise DataError(
            f"{folder}: {', '.join(lost)} is missing from what was packed there; remove the "
            f"folder to have it packed again"
        )
    return tuple(shards)


def _caches(path: Path) -> list[Path]:
    """Where packed shards may be kept: next to the source, else in the user's cache."""
    home = os.environ.get("CLIPKIT_CACHE") or Path.home() / ".cache" / "clipkit"
    return [path.resolve().parent / CACHE_FOLDER, Path(home) / "packed"]


def _pack_into_first(source: Source, folders: Sequence[Path]) -> Path:
    """Pack into the first of some folders that the disk allows.

    Raises:
        DataError: If the disk refuses all of them, or the source cannot be packed.
    """
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
        f"{'; '.join(refusals)}; make room, or name a folder with CLIPKIT_CACHE"
    )


def _pack_whole(source: Source, folder: Path) -> None:
    """Pack unless another process did; a disk that refuses keeps nothing."""
    if (folder / SIZES_FILE).is_file():
        return
    try:
        pack(source, folder, num_workers=min(4, os.cpu_count() or 1))
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
