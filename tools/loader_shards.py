"""Shards of photos of a given size, for the measurements of loaders."""

from __future__ import annotations

import io
import json
import random
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageOps

from clipkit.data.packing.pack import ShardWriter

SUFFIXES = {".jpg", ".jpeg"}
WORDS = (
    *("dog", "cat", "child", "street", "boat", "river", "mountain", "red", "blue", "old", "small"),
    *("two", "people", "standing", "running", "near", "under", "behind", "in", "on", "with", "a"),
    *("the", "green", "bicycle", "house", "window", "table", "bread"),
)


def photos_of(folders: Sequence[Path]) -> list[Path]:
    """All JPEGs of some folders, in the order of names."""
    found = [
        path
        for folder in folders
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in SUFFIXES
    ]
    if not found:
        raise SystemExit(f"no JPEGs in {', '.join(map(str, folders))}")
    return found


def resized(path: Path, longer_side: int, quality: int) -> bytes:
    """The photo as a JPEG whose longer side has ``longer_side`` pixels."""
    with Image.open(path) as image:
        picture = ImageOps.exif_transpose(image).convert("RGB")
    factor = longer_side / max(picture.size)
    size = tuple(max(1, round(side * factor)) for side in picture.size)
    out = io.BytesIO()
    picture.resize((size[0], size[1]), Image.Resampling.LANCZOS).save(out, "JPEG", quality=quality)
    return out.getvalue()


def caption(rng: random.Random) -> str:
    """Words by chance, as many as captions of photos have."""
    return " ".join(rng.choices(WORDS, k=rng.randint(6, 16)))


def make_shards(
    photos: Sequence[Path],
    out: Path,
    longer_sides: tuple[int, int],
    num_samples: int,
    num_shards: int,
    quality: int = 90,
) -> dict[str, float]:
    """Write shards unless they are there; returns what is in them.

    Args:
        photos: Repeated as often as needed, each time at another size.
        out: Folder; gets ``00000.tar`` and so on, and open_clip's ``sizes.json``.
        longer_sides: Smallest and largest longer side, in pixels; drawn for each file.
        num_samples: In all shards together.
        num_shards: As even as can be.
        quality: Of the JPEGs.
    """
    facts = out / "facts.json"
    if not facts.exists():
        rng = random.Random(0)
        # A file for each photo and one more size of it; beyond that bytes repeat.
        files = [
            resized(photo, rng.randint(*longer_sides), quality) for photo in (*photos, *photos)
        ]
        sizes, num_bytes = {}, 0
        for shard in range(num_shards):
            path = out / f"{shard:05d}.tar"
            mine = range(shard, num_samples, num_shards)
            with ShardWriter(path) as writer:
                for number in mine:
                    data = files[number % len(files)]
                    num_bytes += len(data)
                    writer.write(f"{number:06d}", {"jpg": data, "txt": caption(rng).encode()})
            sizes[path.name] = len(mine)
        (out / "sizes.json").write_text(json.dumps(sizes))
        facts.write_text(
            json.dumps(
                {
                    "num_samples": num_samples,
                    "num_shards": num_shards,
                    "distinct_files": len(files),
                    "mean_jpeg_kilobytes": round(num_bytes / num_samples / 1000, 1),
                    "longer_side_pixels": list(longer_sides),
                    "jpeg_quality": quality,
                }
            )
        )
    found: dict[str, float] = json.loads(facts.read_text())
    return found
