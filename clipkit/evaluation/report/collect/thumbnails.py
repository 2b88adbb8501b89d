"""Small copies of the images of a data set."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Final, final

from PIL import Image

from clipkit.data.images.formats import DEFAULT_MAX_PIXELS, open_image, orientation_of
from clipkit.data.samples.content import sample_errors
from clipkit.evaluation.datasets.sample_source import SampleSource
from clipkit.evaluation.report.content import Thumbnail, ThumbnailSheet

_QUALITY: Final = 78
_SHEET_COLUMNS: Final = 20


@final
class Thumbnails:
    """Thumbnails of the images of a data set, each made once.

    Args:
        data: The images.
        captions: Caption of an image by its row; an image without one is described by its key.
        pixels: Longest side of a thumbnail.
    """

    def __init__(self, data: SampleSource, captions: Mapping[int, str], pixels: int) -> None:
        self._data = data
        self._captions = captions
        self._pixels = pixels
        self._made: dict[int, Thumbnail] = {}

    def __getitem__(self, row: int) -> Thumbnail:
        if row not in self._made:
            sample = self._data.sample(row)
            with sample_errors(self._data.name, sample.key):
                data = thumbnail(sample.image, self._pixels)
            self._made[row] = Thumbnail(data, self._captions.get(row, sample.key))
        return self._made[row]

    def sheet(self, rows: Sequence[int], pixels: int) -> tuple[ThumbnailSheet, list[str]]:
        """Return square thumbnails of images on one sheet, and their descriptions."""
        num_columns = min(_SHEET_COLUMNS, len(rows))
        num_rows = -(-len(rows) // num_columns)
        sheet = Image.new("RGB", (num_columns * pixels, num_rows * pixels), "white")
        captions = []
        for place, row in enumerate(rows):
            sample = self._data.sample(row)
            with sample_errors(self._data.name, sample.key):
                image = reduced(sample.image, pixels)
            left, top = place % num_columns * pixels, place // num_columns * pixels
            margin_x, margin_y = (pixels - image.width) // 2, (pixels - image.height) // 2
            sheet.paste(image, (left + margin_x, top + margin_y))
            captions.append(self._captions.get(row, sample.key))
        content = Thumbnail(as_webp(sheet), f"{len(rows)} images of {self._data.name}")
        return ThumbnailSheet(content, num_columns, num_rows), captions


def thumbnail(data: bytes, pixels: int) -> bytes:
    """Reduce an image to a small WebP file on a white background."""
    return as_webp(reduced(data, pixels))


def reduced(data: bytes, pixels: int) -> Image.Image:
    """Decode an image, reduce it to a longest side, turn it upright, on a white background."""
    stored = open_image(data, DEFAULT_MAX_PIXELS)
    turn = orientation_of(stored, data)
    image = stored.convert("RGBA")
    image.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    image = image.transpose(turn.method) if turn else image
    canvas = Image.new("RGBA", image.size, "white")
    canvas.alpha_composite(image)
    return canvas.convert("RGB")


def as_webp(image: Image.Image) -> bytes:
    """Encode an image as WebP."""
    out = io.BytesIO()
    image.save(out, "WEBP", quality=_QUALITY, method=6)
    return out.getvalue()
