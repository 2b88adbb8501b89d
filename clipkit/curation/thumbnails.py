"""Small copies of the images of a collection, for pages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, final

from clipkit.collection import CollectionImages
from clipkit.data.samples.content import sample_errors
from clipkit.errors import SampleError, ShardError
from clipkit.evaluation.report.collect.thumbnails import thumbnail
from clipkit.evaluation.report.content import Thumbnail

_MISSING: Final = Thumbnail(
    b"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 24 24'><rect width='24' height='24' "
    b"fill='#ddd'/><path d='m8 8 8 8m0-8-8 8' stroke='#777'/></svg>",
    "image cannot be read",
    "image/svg+xml",
)


@final
class CollectionThumbnails:
    """Thumbnails of images by row, each made once; an image that cannot be read has a cross.

    Args:
        images: The image files.
        captions: Captions of each row that is shown; the first one describes the image.
        pixels: Longest side of a thumbnail.

    Attributes:
        num_unreadable: Number of images that could not be read so far.
    """

    def __init__(
        self, images: CollectionImages, captions: Mapping[int, Sequence[str]], pixels: int = 128
    ) -> None:
        self._images = images
        self._captions = captions
        self._pixels = pixels
        self._made: dict[int, Thumbnail] = {}
        self.num_unreadable = 0

    def __getitem__(self, row: int) -> Thumbnail:
        if row not in self._made:
            self._made[row] = self._thumbnail(row)
        return self._made[row]

    def _thumbnail(self, row: int) -> Thumbnail:
        try:
            with sample_errors():
                data = thumbnail(self._images.read(row), self._pixels)
        except (SampleError, ShardError):
            self.num_unreadable += 1
            return _MISSING
        return Thumbnail(data, next(iter(self._captions[row]), "no caption"))
