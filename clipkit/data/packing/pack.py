"""Pack images and captions from tables, folders or existing shards into WebDataset shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import write_json, write_json_once, write_text
from clipkit.data.packing.shard_packer import PackOptions, ShardPacker
from clipkit.data.packing.sources import Source, open_source, source_of_dataset
from clipkit.data.packing.tables.arrow_rows import ArrowDataset
from clipkit.data.packing.tables.columns import TableColumns
from clipkit.data.packing.writer import ShardWriter
from clipkit.data.shards.index import ShardIndex
from clipkit.errors import DataError

__all__ = ["PackReport", "ShardWriter", "pack"]

RECIPE_FILE: Final = "pack.json"
SIZES_FILE: Final = "sizes.json"


@dataclass(frozen=True, slots=True)
class PackReport:
    """Result of ``pack``.

    Args:
        shards: Paths of the tars, in order.
        num_samples: Number of samples in all shards.
        faults: ``(sample, reason)`` of each sample that was skipped.
    """

    shards: tuple[Path, ...]
    num_samples: int
    faults: tuple[tuple[str, str], ...]


def pack(
    source: str | Path | Source | ArrowDataset,
    out: str | Path,
    *,
    images: str | Path | None = None,
    class_names: Sequence[str] | None = None,
    allow_outside: bool = False,
    columns: TableColumns = TableColumns(),
    samples_per_shard: int = 10_000,
    image_size: int | None = None,
    max_bad_samples: int = 0,
    num_workers: int = 1,
    on_sample: Callable[[int, int], None] | None = None,
) -> PackReport:
    """Pack images and captions into shards with equal numbers of samples.

    The bytes of the shards depend only on the source and the options, not on time, machine or
    number of workers. After an interruption, the same call continues.

    Args:
        source: A CSV, TSV or Parquet table, a COCO-style JSON file, a folder with one of these, a
            folder with one folder per class, the output of img2dataset, or shards (also in
            CLIP_benchmark's layout); ``hf://datasets/OWNER/NAME[/CONFIG/SPLIT]``; a
            ``datasets.Dataset``; or a result of ``open_source``.
        out: Folder for the shards, their index files and ``sizes.json``.
        images: Folder that image names are relative to; None for the folder of the table.
        class_names: Names in the order of class numbers, for a source with names only; None for
            the numbers of the source, or alphabetical order.
        allow_outside: Whether images may be outside of that folder, directly or by a symbolic link.
        columns: Columns of a table with images and captions, if their names are not recognised.
        samples_per_shard: Number of samples in each shard but the last.
        image_size: Length in pixels to which the shorter side of larger images is reduced; None
            keeps every file as it is.
        max_bad_samples: Largest number of broken samples that are skipped, with a message.
        num_workers: Number of threads; each packs one shard at a time.
        on_sample: Called with the numbers of completed and of all samples, from any thread; None
            for no call.

    Returns:
        The shards, and the samples that were skipped.

    Raises:
        DataError: If the source is not recognised or empty, names images outside of its folder, or
            ``out`` contains something else.
        FaultBudgetExceeded: If more samples are broken than allowed.

    Examples:
        >>> pack("photos/captions.csv", "shards", image_size=256).num_samples
        4
    """
    options = PackOptions(samples_per_shard, image_size, max_bad_samples, num_workers)
    found = _opened(source, images, class_names, allow_outside, columns)
    folder = Path(out)
    claim_folder(folder, _recipe(found, options))
    packer = ShardPacker(folder, found.items, options, on_sample)
    sizes = packer.pack(range(packer.num_shards))
    for name, text in found.files.items():
        write_text(folder / name, text)
    write_json(folder / SIZES_FILE, sizes)
    return report_of(folder, packer, sizes)


def claim_folder(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Store what a folder is packed of, or check that it is the same; several processes may.

    Args:
        folder: Folder for the shards.
        recipe: Source and options, in JSON types.

    Raises:
        DataError: If the folder contains shards of another source or with other options.
    """
    path = folder / RECIPE_FILE
    has_tars = folder.is_dir() and any(folder.glob("*.tar"))
    if has_tars and not path.exists():  # it is written before any tar
        raise DataError(f"{folder}: contains tars that were not packed here; choose another folder")
    if write_json_once(path, recipe):
        return
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        stored = None
    if stored != recipe:
        known = stored if isinstance(stored, dict) else {}
        named = ", ".join(name for name in recipe if known.get(name) != recipe[name])
        raise DataError(
            f"{folder}: contains shards of another source or other options ({RECIPE_FILE} "
            f"differs{f' in {named}' if known and named else ''}); choose another folder, or empty "
            f"this one"
        )


def report_of(folder: Path, packer: ShardPacker, sizes: Mapping[str, int]) -> PackReport:
    """Write the index files of shards, and report them.

    Args:
        folder: Folder of the shards.
        packer: What packed them.
        sizes: Number of samples of each shard, by name.
    """
    shards = tuple(folder / name for name in sizes)
    num_samples = ShardIndex.from_urls(shards, counts=sizes).num_samples if shards else 0
    return PackReport(shards, num_samples, packer.faults)


def _opened(
    source: str | Path | Source | ArrowDataset,
    images: str | Path | None,
    class_names: Sequence[str] | None,
    allow_outside: bool,
    columns: TableColumns,
) -> Source:
    root = None if images is None else Path(images)
    if isinstance(source, Source):
        return source
    if isinstance(source, str | Path):
        return open_source(source, root, class_names, allow_outside, columns)
    return source_of_dataset(source, root, class_names, allow_outside, columns)


def _recipe(source: Source, options: PackOptions) -> dict[str, Any]:
    return {
        "fingerprint": source.fingerprint(),
        "num_samples": len(source.items),
        "samples_per_shard": options.samples_per_shard,
        "image_size": options.image_size,
    }
