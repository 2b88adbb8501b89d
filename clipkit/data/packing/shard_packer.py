"""Pack samples into the shards of a folder, several at a time; shards that exist are kept."""

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

from clipkit.atomic_files import write_json
from clipkit.data.images.formats import (
    DEFAULT_MAX_PIXELS,
    IMAGE_EXTENSIONS,
    image_faults,
    open_image,
    orientation_of,
    to_rgb,
)
from clipkit.data.packing.items import Item
from clipkit.data.packing.writer import ShardWriter
from clipkit.errors import DataError, FaultBudgetExceeded, SampleError, check_at_least

JPEG_QUALITY: Final = 95


@dataclass(frozen=True, slots=True)
class PackOptions:
    """How samples are packed into shards.

    Args:
        samples_per_shard: Number of samples in each shard but the last.
        image_size: Length in pixels to which the shorter side of larger images is reduced; None
            keeps every file as it is.
        max_bad_samples: Largest number of broken samples that are skipped.
        num_workers: Number of threads; each packs one shard at a time.

    Raises:
        ConfigError: If a number is less than 1, or 0 for ``max_bad_samples``.
    """

    samples_per_shard: int = 10_000
    image_size: int | None = None
    max_bad_samples: int = 0
    num_workers: int = 1

    def __post_init__(self) -> None:
        check_at_least("samples_per_shard", self.samples_per_shard, 1)
        check_at_least("image_size", self.image_size, 1)
        check_at_least("max_bad_samples", self.max_bad_samples, 0)
        check_at_least("num_workers", self.num_workers, 1)


@final
class ShardPacker:
    """Packs the shards of one source, several at a time.

    Args:
        folder: Folder for the shards.
        items: All samples of the source, in order.
        options: Sizes of shards and images, and number of threads.
        on_sample: Called with the numbers of completed and of all samples, from any thread; None
            for no call.

    Attributes:
        num_shards: Number of shards of all samples.
    """

    def __init__(
        self,
        folder: Path,
        items: Sequence[Item],
        options: PackOptions,
        on_sample: Callable[[int, int], None] | None,
    ) -> None:
        self._folder = folder
        self._items = items
        self._options = options
        self._on_sample = on_sample
        self._lock = Lock()
        self._done = self._total = 0
        self._faults: dict[int, list[tuple[str, str]]] = {}
        self.num_shards = -(-len(items) // options.samples_per_shard)

    def path(self, number: int) -> Path:
        """Return the path of a shard."""
        return self._folder / f"{number:05d}.tar"

    def samples(self, shards: range) -> range:
        """Return the positions of the samples of consecutive shards."""
        size = self._options.samples_per_shard
        return range(len(self._items))[shards.start * size : shards.stop * size]

    def pack(self, shards: range) -> dict[str, int]:
        """Write consecutive shards, except those that exist.

        Args:
            shards: Numbers of the shards.

        Returns:
            The number of samples of each shard, by name.

        Raises:
            DataError: If none of the samples of a shard can be used.
            FaultBudgetExceeded: If more samples are broken than allowed.
        """
        self._total = len(self.samples(shards))
        with ThreadPoolExecutor(self._options.num_workers) as pool:
            futures = [pool.submit(self._pack_shard, number) for number in shards]
            try:
                counts = [future.result() for future in futures]
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        return {self.path(shard).name: count for shard, count in zip(shards, counts, strict=True)}

    @property
    def faults(self) -> tuple[tuple[str, str], ...]:
        """``(sample, reason)`` of each sample that was skipped, in order."""
        return tuple(fault for number in sorted(self._faults) for fault in self._faults[number])

    def _pack_shard(self, number: int) -> int:
        """Write one shard unless it exists, and return its number of samples."""
        positions = self.samples(range(number, number + 1))
        notes = self._folder / f".{number:05d}.faults.json"
        if self.path(number).exists():
            # Faults are written before the tar gets its name: a tar without them had none.
            known = json.loads(notes.read_text(encoding="utf-8")) if notes.exists() else []
            self._count([(name, reason) for name, reason in known], number, len(positions))
            return len(positions) - len(known)
        faults: list[tuple[str, str]] = []
        with ShardWriter(self.path(number)) as writer:
            for position in positions:
                item = self._items[position]
                try:
                    members = prepare(item.members(), self._options.image_size)
                    writer.write(item.key or f"{position:09d}", members)
                except SampleError as error:
                    name = error.key or item.key or f"sample {position}"
                    faults.append((name, error.reason))
                self._count(faults, number, 1)
            if writer.num_samples == 0:
                raise DataError(
                    f"{self.path(number)}: none of its samples can be used: {faults[0]}"
                )
            # Another process may write the same shard: at no time are its faults absent.
            if faults:
                write_json(notes, faults)
            else:
                notes.unlink(missing_ok=True)
        return len(positions) - len(faults)

    def _count(self, faults: list[tuple[str, str]], shard: int, num_done: int) -> None:
        with self._lock:
            self._faults[shard] = faults
            self._done += num_done
            num_faults = sum(map(len, self._faults.values()))
            if num_faults > self._options.max_bad_samples:
                named = "\n  ".join(f"{name}: {reason}" for name, reason in self.faults[:5])
                raise FaultBudgetExceeded(
                    f"{num_faults} samples cannot be packed (allowed: max_bad_samples="
                    f"{self._options.max_bad_samples}):\n  {named}"
                )
            if self._on_sample is not None:
                self._on_sample(self._done, self._total)


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
