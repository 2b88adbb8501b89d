"""Drawings with planted near-duplicates, as a table with images."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

COPIES: dict[str, Callable[[Image.Image], tuple[Image.Image, str, dict[str, object]]]] = {
    "smaller": lambda image: (image.resize((90, 70)), "PNG", {}),
    "recompressed": lambda image: (image, "JPEG", {"quality": 30}),
    "mirrored": lambda image: (ImageOps.mirror(image), "PNG", {}),
    "cropped": lambda image: (image.crop((3, 2, 157, 118)), "PNG", {}),
}
CLASSES = ("cat", "dog", "owl", "red panda")


def drawing(seed: int) -> Image.Image:
    """A soft drawing, as photos are: low frequencies carry most of it."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    return coarse.resize((160, 120), Image.Resampling.BICUBIC)


def caption(number: int) -> str:
    """A caption whose words no other caption has all of."""
    return (
        f"{CLASSES[number % 4]} number {number} sits on chair {7 * number} near lake {number + 3}"
    )


def write_table(
    folder: Path, num_images: int = 40, num_copied: int = 8, *, classes: bool = True
) -> Path:
    """Write images, and each kind of copy of the first ones; return the table.

    The column ``original`` is the number of the image that a row shows.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(num_images):
        image = drawing(number)
        kinds = ["own", *COPIES] if number < num_copied else ["own"]
        for place, kind in enumerate(kinds):
            pixels, form, options = COPIES.get(kind, lambda i: (i, "PNG", {}))(image)
            name = f"{number:03d}-{kind}.{'jpg' if form == 'JPEG' else 'png'}"
            out = io.BytesIO()
            pixels.save(out, form, **options)
            (folder / name).write_bytes(out.getvalue())
            row = {
                "image": name,
                "caption": caption(number + 1000 * place),
                "original": number,
                "language": ("en", "de")[number % 2],
                "license": "cc-by-4.0",
                "patient": f"p{number // 3}",
            }
            rows.append({**row, "class_name": CLASSES[number % 4]} if classes else row)
    table = folder / "captions.csv"
    with table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return table
