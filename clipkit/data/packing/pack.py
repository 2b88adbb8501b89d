"""Pack images and captions from tables, folders or existing shards into WebDataset shards."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Final, final

from PIL import Image

from clipkit.atomic_files import write_json, write_text
from clipkit.data.images.formats import (
    DEFAULT_MAX_PIXELS,
    IMAGE_EXTENSIONS,
    image_faults,
    open_image,
    orientation_of,
    to_rgb,
)
from clipkit.data.packing.items import Item
from clipkit.data.packing.sources import Source, open_source, source_of_dataset
from clipkit.data.packing.tables.arrow_rows import ArrowDataset
from clipkit.data.packing.tables.columns import TableColumns
from clipkit.data.packing.writer import ShardWriter
from clipkit.data.shards.index import ShardIndex
from clipkit.errors import ConfigError, DataError, FaultBudgetExceeded, SampleError

__all__ = ["PackReport", "ShardWriter", "pack"]

JPEG_QUALITY: Final = 95
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
    for option, value in (("samples_per_shard", samples_per_shard), ("num_workers", num_workers)):
        if value < 1:
            raise ConfigError(f"{option}: expected at least 1, got {value}")
    if image_size is not None and image_size < 1:
        raise ConfigError(f"image_size: expected at least 1 pixel, got {image_size}")
    found = _opened(source, images, class_names, allow_outside, columns)
    folder = Path(out)
    _claim(folder, _recipe(found, samples_per_shard, image_size))
    packer = _Packer(folder, found.items, samples_per_shard, image_size, max_bad_samples, on_sample)
    with ThreadPoolExecutor(num_workers) as pool:
        futures = [pool.submit(packer.pack_shard, number) for number in range(packer.num_shards)]
        try:
            counts = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    for name, text in found.files.items():
        write_text(folder / name, text)
    return _finish(folder, packer, counts)


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


@final
class _Packer:
    """Packs the shards of one source; used by several threads."""

    def __init__(
        self,
        folder: Path,
        items: Sequence[Item],
        samples_per_shard: int,
        image_size: int | None,
        max_bad_samples: int,
        on_sample: Callable[[int, int], None] | None,
    ) -> None:
        self._folder = folder
        self._items = items
        self._samples_per_shard = samples_per_shard
        self._image_size = image_size
        self._max_bad_samples = max_bad_samples
        self._on_sample = on_sample
        self._lock = Lock()
        self._done = 0
        self.faults: dict[int, list[tuple[str, str]]] = {}
        self.num_shards = -(-len(items) // samples_per_shard)

    def path(self, number: int) -> Path:
        """Return the path of a shard."""
        return self._folder / f"{number:05d}.tar"

    def pack_shard(self, number: int) -> int:
        """Write one shard unless it exists, and return its number of samples."""
        start = number * self._samples_per_shard
        items = self._items[start : start + self._samples_per_shard]
        notes = self._folder / f".{number:05d}.faults.json"
        if self.path(number).exists():
            # Faults are written before the tar gets its name: a tar without them had none.
            known = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else []
            self._count([(name, reason) for name, reason in known], number, len(items))
            return len(items) - len(known)
        faults: list[tuple[str, str]] = []
        with ShardWriter(self.path(number)) as writer:
            for position, item in enumerate(items, start=start):
                try:
                    members = prepare(item.members(), self._image_size)
                    writer.write(item.key or f"{position:09d}", members)
                except SampleError as error:
                    name = error.key or item.key or f"sample {position}"
                    faults.append((name, error.reason))
                self._count(faults, number, 1)
            if writer.num_samples == 0:
                raise DataError(
                    f"{self.path(number)}: none of its samples can be used: {faults[0]}"
                )
            notes.unlink(missing_ok=True)
            if faults:
                write_json(notes, faults)
        return len(items) - len(faults)

    def _count(self, faults: list[tuple[str, str]], shard: int, num_done: int) -> None:
        with self._lock:
            self.faults[shard] = faults
            self._done += num_done
            every = [fault for each in self.faults.values() for fault in each]
            if len(every) > self._max_bad_samples:
                named = "\n  ".join(f"{name}: {reason}" for name, reason in every[:5])
                raise FaultBudgetExceeded(
                    f"{len(every)} samples cannot be packed (allowed: max_bad_samples="
                    f"{self._max_bad_samples}):\n  {named}"
                )
            if self._on_sample is not None:
                self._on_sample(self._done, len(self._items))


def prepare(members: dict[str, bytes], image_size: int | None) -> dict[str, bytes]:
    """Return the members as they are packed: larger images are reduced.

    A single image becomes a JPEG, or a PNG if it is one or has transparent pixels. Several images
    of a sample keep their extensions and formats, so that none replaces another.
    """
    if image_size is None:
        return members
    images = [extension for extension in members if extension in IMAGE_EXTENSIONS]
    prepared: dict[str, bytes] = {}
    for extension, data in members.items():
        if extension in images:
            extension, data = _reduced(extension, data, image_size, keeps_format=len(images) > 1)
        prepared[extension] = data
    return prepared


def _reduced(extension: str, data: bytes, size: int, keeps_format: bool) -> tuple[str, bytes]:
    image = open_image(data, DEFAULT_MAX_PIXELS)
    turn = orientation_of(image, data)
    with image_faults("image is truncated or damaged"):
        image.load()
    if min(image.size) <= size:
        return extension, data
    keeps_alpha = image.has_transparency_data
    pixels = image.convert("RGBA") if keeps_alpha else to_rgb(image, None)
    pixels = pixels.transpose(turn.method) if turn else pixels
    factor = size / min(pixels.size)
    wanted = (max(1, round(pixels.width * factor)), max(1, round(pixels.height * factor)))
    out = io.BytesIO()
    small = pixels.resize(wanted, Image.Resampling.BICUBIC)
    if keeps_format:
        kind = "JPEG" if image.format == "MPO" else image.format
        kind = kind if kind in Image.SAVE else "PNG"
    else:
        kind = "PNG" if keeps_alpha or image.format == "PNG" else "JPEG"
    with image_faults(f"image reduced to {wanted[0]} x {wanted[1]} pixels cannot be stored"):
        small.save(out, format=kind, quality=JPEG_QUALITY)
    return extension if keeps_format else {"PNG": "png", "JPEG": "jpg"}[kind], out.getvalue()


def _recipe(source: Source, samples_per_shard: int, image_size: int | None) -> dict[str, object]:
    return {
        "fingerprint": source.fingerprint(),
        "num_samples": len(source.items),
        "samples_per_shard": samples_per_shard,
        "image_size": image_size,
    }


def _claim(folder: Path, recipe: dict[str, object]) -> None:
    """Check that shards in the folder, if any, were written by the same call."""
    path = folder / RECIPE_FILE
    if path.exists():
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            stored = None
        if stored != recipe:
            raise DataError(
                f"{folder}: contains shards of another source or other options ({RECIPE_FILE} "
                f"differs); choose another folder, or empty this one"
            )
    elif folder.is_dir() and any(folder.glob("*.tar")):
        raise DataError(f"{folder}: contains tars that were not packed here; choose another folder")
    else:
        write_json(path, recipe)


def _finish(folder: Path, packer: _Packer, counts: Sequence[int]) -> PackReport:
    shards = tuple(packer.path(number) for number in range(packer.num_shards))
    sizes = {shard.name: count for shard, count in zip(shards, counts, strict=True)}
    write_json(folder / SIZES_FILE, sizes)
    index = ShardIndex.from_urls(shards, counts=sizes)
    faults = [fault for number in sorted(packer.faults) for fault in packer.faults[number]]
    return PackReport(shards, index.num_samples, tuple(faults))
