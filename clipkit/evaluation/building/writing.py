"""Write the splits in CLIP_benchmark's WebDataset layout."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any, Final

from clipkit.atomic_files import write_json, write_text
from clipkit.data.images.formats import (
    DEFAULT_MAX_PIXELS,
    IMAGE_EXTENSIONS,
    WHITE,
    open_image,
    orientation_of,
    to_rgb,
)
from clipkit.data.packing.items import Item
from clipkit.data.packing.pack import SIZES_FILE, ShardWriter
from clipkit.data.packing.shard_packer import prepare
from clipkit.data.packing.tables.table import as_json
from clipkit.data.samples.content import sample_errors
from clipkit.data.shards.members import read_label
from clipkit.evaluation.building.options import SampleFields
from clipkit.evaluation.building.scan import captions_of, json_object
from clipkit.types import IGNORE_LABEL

NUM_SHARDS_FILE: Final = "nshards.txt"
_READ_EVERYWHERE: Final = ("jpg", "jpeg", "png", "webp")


def write_split(
    folder: Path,
    samples: Sequence[int],
    members_of: Callable[[int], tuple[str, Mapping[str, bytes]]],
    *,
    samples_per_shard: int,
    num_workers: int,
    on_sample: Callable[[int], None],
) -> None:
    """Write the shards ``0.tar``, ``1.tar`` ... of a split, and ``nshards.txt``.

    Args:
        folder: Folder of the split; it is created.
        samples: Numbers of the samples, in order.
        members_of: Returns key and members of a sample; called from several threads.
        samples_per_shard: Number of samples in each shard but the last.
        num_workers: Number of threads; each writes one shard at a time.
        on_sample: Called with the number of completed samples.
    """
    done = count(1)
    starts = range(0, len(samples), samples_per_shard)

    def write_shard(number: int, start: int) -> int:
        chosen = samples[start : start + samples_per_shard]
        with ShardWriter(folder / f"{number}.tar") as writer:
            for sample in chosen:
                writer.write(*members_of(sample))
                on_sample(next(done))
        return len(chosen)

    with ThreadPoolExecutor(num_workers) as pool:
        futures = [pool.submit(write_shard, *each) for each in enumerate(starts)]
        try:
            counts = [future.result() for future in futures]
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    write_json(folder / SIZES_FILE, {f"{n}.tar": size for n, size in enumerate(counts)})
    write_text(folder / NUM_SHARDS_FILE, f"{len(counts)}\n")


def written_members(
    key: str,
    item: Item,
    fields: SampleFields,
    image_size: int | None,
    further: Mapping[str, Any],
) -> dict[str, bytes]:
    """Return the members of a sample as they are written.

    Captions become the lines of ``txt``, the class becomes ``cls``, and ``json`` gets the captions
    and further fields. All other members stay as they are.

    Args:
        key: Name of the sample.
        item: The sample in its source.
        fields: Where captions and class are.
        image_size: Length of the shorter side of larger images; None to keep them.
        further: Fields that are added to ``json``.
    """
    with sample_errors(key=key):
        members = item.members()
        captions, label = captions_of(members, fields), read_label(members, fields.label)
        content = json_object(members)
        members = prepare(readable(members), image_size)
    kept = {name: data for name, data in members.items() if name not in ("txt", "cls", "json")}
    if captions:
        kept["txt"] = "\n".join(captions).encode()
        further = {"captions": list(captions), **further}
    if label != IGNORE_LABEL:
        kept["cls"] = str(label).encode()
    return {**kept, "json": as_json({**content, **further})}


def readable(members: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the members with an image in a format that CLIP_benchmark reads.

    Other formats (GIF, BMP, TIFF ...) become PNG; of an animation, the first image.
    """
    image = next(name for name in IMAGE_EXTENSIONS if name in members)
    if image in _READ_EVERYWHERE:
        return dict(members)
    out = io.BytesIO()
    data = members[image]
    opened = open_image(data, DEFAULT_MAX_PIXELS)
    turn = orientation_of(opened, data)
    pixels = to_rgb(opened, WHITE)
    (pixels.transpose(turn.method) if turn else pixels).save(out, "PNG")
    kept = {name: content for name, content in members.items() if name != image}
    return {"png": out.getvalue(), **kept}


def write_positives(path: Path, positives: Mapping[str, Sequence[str]]) -> None:
    """Write the file that ``RetrievalOptions.positives`` takes, with one caption per line."""
    lines = (
        f"{json.dumps(key, ensure_ascii=False)}: {json.dumps(images, ensure_ascii=False)}"
        for key, images in positives.items()
    )
    entries = ",".join(f"\n  {line}" for line in lines)
    write_text(path, f'{{"text_to_image": {{{entries}\n}}}}\n')
