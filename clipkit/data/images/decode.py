"""Decode one crop of an image, and not more than is needed.

The crop is chosen from the header. A JPEG is then decoded at the smallest of the scales n/8 at
which the crop has at least the wanted size (the cosine transform makes these scales cheap). The
crop is resized to the exact size by torch's vectorised kernel if its edges are edges of decoded
pixels, else by Pillow, which accepts any box.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from math import ceil
from typing import Final, NamedTuple, final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipkit.data.images.decoded_images import DecodedImages
from clipkit.data.images.formats import (
    DEFAULT_MAX_PIXELS,
    RGB,
    WHITE,
    Color,
    Orientation,
    check_max_pixels,
    open_image,
    orientation_of,
    to_rgb,
)
from clipkit.data.images.jpeg import decode_jpeg, plain_jpeg_size, scale_of
from clipkit.errors import ConfigError, SampleError, check_choice
from clipkit.patches import TokenBudget

INTERPOLATIONS: Final = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
OVERSAMPLING: Final = 1.25
"""Least size of a decoded JPEG crop, as a multiple of the wanted size, if it has the pixels.

Scaled decoding keeps more detail than Pillow's filter does; the last reduction smooths it. On
photos of 640 and 1,600 pixels, mean absolute difference to the exact crop of 64 pixels: 2.5 and 2.3
levels without, 1.8 and 2.0 with 1.25, 1.5 and 1.7 with 1.5, at the same speed up to 1.25.
"""
BLOCK_PIXELS: Final = 8
"""Edges at multiples of this are pixel edges at every scale of JPEG decoding."""
_JPEG_START: Final = b"\xff\xd8\xff"
_PLAIN_JPEG: Final = "plain JPEG"


class Box(NamedTuple):
    """A rectangle in an upright image, in pixels."""

    left: float  # first column
    top: float  # first row
    width: float  # number of columns
    height: float  # number of rows


CropChooser = Callable[[int, int], Box]
"""Chooses the crop from the width and height of the upright image."""


def central_square(width: int, height: int) -> Box:
    """Return the largest square in the centre.

    Examples:
        >>> central_square(640, 480)
        Box(left=80.0, top=0.0, width=480, height=480)
    """
    side = min(width, height)
    return Box((width - side) / 2, (height - side) / 2, side, side)


@final
class ImageDecoder:
    """Decodes a crop of an image file to pixels.

    Reads every format of Pillow: CMYK, palettes, grey, 16 bits, transparency, animations (the first
    frame), and turns images upright by the EXIF orientation.

    Args:
        size: Width and height of the result, in pixels; or a budget of patches, from which both
            follow by the shape of the crop.
        fast: Whether JPEGs are decoded at a reduced scale if the crop allows it, and crops on pixel
            edges are resized by torch; the mean difference from the exact result is about two
            levels of 255.
        background: Colour behind transparent pixels; None shows the colour stored under them, as
            open_clip does.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
        max_pixels: Largest number of pixels; larger images are refused before they are decoded.
        keep_mib: Memory for the pixels of decoded files, in MiB per process. It does not change
            the results.

    Examples:
        >>> ImageDecoder(size=224)(Path("dog.jpg").read_bytes()).shape
        torch.Size([3, 224, 224])
    """

    def __init__(
        self,
        size: int | TokenBudget,
        fast: bool = True,
        background: Color | None = WHITE,
        interpolation: str = "bicubic",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        keep_mib: int = 0,
    ) -> None:
        self.size = size if isinstance(size, TokenBudget) else check_image_size(size)
        self.fast = fast
        self.background = background
        self.interpolation = check_interpolation(interpolation)
        self.max_pixels = check_max_pixels(max_pixels)
        self._decoded = DecodedImages(keep_mib)

    def __call__(
        self, data: bytes, crop: CropChooser = central_square, background: Color | None = None
    ) -> RGB:
        """Decode one crop.

        Args:
            data: Bytes of the file.
            crop: Chooses the crop from the upright width and height.
            background: Colour behind transparent pixels of this image; None for the decoder's.

        Returns:
            Pixels, 0 to 255.

        Raises:
            SampleError: If the bytes are not an image, damaged, truncated, empty or too large.
        """
        pixels = self._plain_jpeg(data, crop) if self.fast else None
        if pixels is None:
            pixels = self._any_format(data, crop, background or self.background)
        return pixels

    def at_size(self, size: int) -> ImageDecoder:
        """Return this decoder with results of another width and height; both share what is kept."""
        resized = copy.copy(self)
        resized.size = check_image_size(size)
        return resized

    def target(self, box: Box) -> tuple[int, int]:
        """Return the width and height to which a crop is resized, in pixels."""
        if isinstance(self.size, int):
            return self.size, self.size
        rows, columns = self.size.grid(round(box.width), round(box.height))
        return columns * self.size.patch_size, rows * self.size.patch_size

    def _plain_jpeg(self, data: bytes, crop: CropChooser) -> RGB | None:
        """Decode the crop of an intact upright RGB or grey JPEG; None if Pillow is needed."""
        if not data.startswith(_JPEG_START):
            return None
        pixels = self._decoded.find(data, _PLAIN_JPEG)
        try:
            if pixels is None:
                size = plain_jpeg_size(data, self.max_pixels)
                if size is None:
                    return None
                width, height = size
            else:
                height, width = pixels.shape[:2]
            box = crop(width, height)
            least = _least_decoded(box, width, height, self.target(box))
            reduced = least[0] <= ceil(width / 2) and least[1] <= ceil(height / 2)
            if pixels is None or reduced:
                pixels = decode_jpeg(data, width * height, least)
                if not reduced:
                    self._decoded.keep(data, _PLAIN_JPEG, pixels)
        except ValueError:
            # simplejpeg is strict: Pillow decides whether the damage matters, and names it.
            return None
        scale = scale_of(pixels, width, height)
        return self._resized(pixels, box, (scale, scale))

    def _any_format(self, data: bytes, crop: CropChooser, background: Color | None) -> RGB:
        kept = self._decoded.find(data, background)
        if kept is not None:
            return self._resized(kept, crop(kept.shape[1], kept.shape[0]), (1.0, 1.0))
        image = open_image(data, self.max_pixels)
        turn = orientation_of(image, data)
        width, height = image.size
        upright = (height, width) if turn and turn.swaps else (width, height)
        box = stored_box(crop(*upright), width, height, turn)
        target = self.target(box)
        drafted = self.fast and image.format == "JPEG"
        if drafted:
            image.draft(None, _least_decoded(box, width, height, target))
        pixels = to_rgb(image, background)
        if turn is None and not drafted and background == self.background:
            self._decoded.keep(data, background, pixels)
        scale = (pixels.width / width, pixels.height / height)
        if turn is None:
            return self._resized(np.array(pixels), box, scale)
        return to_tensor(self._resize(pixels, box, scale).transpose(turn.method))

    def _resized(
        self, pixels: UInt8[np.ndarray, "rows columns 3"], box: Box, scale: tuple[float, float]
    ) -> RGB:
        placed = Box(*(length * factor for length, factor in zip(box, 2 * scale, strict=True)))
        if self.fast and all(float(edge).is_integer() for edge in placed):
            return _resize_whole_pixels(pixels, placed, self.target(box), self.interpolation)
        return to_tensor(self._resize(Image.fromarray(pixels), box, scale))

    def _resize(self, image: Image.Image, box: Box, scale: tuple[float, float]) -> Image.Image:
        # min() removes what rounding added beyond the edge, which Pillow refuses.
        corners = (
            box.left * scale[0],
            box.top * scale[1],
            min((box.left + box.width) * scale[0], image.width),
            min((box.top + box.height) * scale[1], image.height),
        )
        return image.resize(self.target(box), self.interpolation, box=corners)


def stored_box(box: Box, width: int, height: int, turn: Orientation | None) -> Box:
    """Convert a crop of the upright image to the pixels as they are stored.

    Examples:
        >>> from clipkit.data.images.formats import ORIENTATIONS
        >>> stored_box(Box(0, 0, 10, 20), 100, 50, ORIENTATIONS[6])
        Box(left=0, top=40, width=20, height=10)
    """
    if turn is None:
        return box
    left, top, box_width, box_height = box
    if turn.swaps:
        left, top, box_width, box_height = top, left, box_height, box_width
    if turn.mirrors_x:
        left = width - left - box_width
    if turn.mirrors_y:
        top = height - top - box_height
    return Box(left, top, box_width, box_height)


def check_image_size(size: int) -> int:
    """Check the option ``size``."""
    if size < 1:
        raise ConfigError(f"size: expected a number of pixels above 0, got {size}")
    return size


def check_interpolation(name: str) -> Image.Resampling:
    """Return Pillow's filter of that name."""
    check_choice("interpolation", name, INTERPOLATIONS)
    return INTERPOLATIONS[name]


def to_tensor(image: Image.Image) -> RGB:
    """Return pixels of an RGB image; memory keeps Pillow's order (rows, columns, colours)."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def to_image(pixels: RGB) -> Image.Image:
    """Reverse ``to_tensor``."""
    return Image.fromarray(np.ascontiguousarray(pixels.permute(1, 2, 0).numpy()))


def _resize_whole_pixels(
    pixels: UInt8[np.ndarray, "rows columns 3"],
    box: Box,
    target: tuple[int, int],
    interpolation: Image.Resampling,
) -> RGB:
    """Resize a crop on pixel edges with Pillow's filters, in a fifth of Pillow's time.

    At the crop's edges, Pillow reads the pixels outside; elsewhere the results differ only by
    rounding.
    """
    left, top, width, height = map(int, box)
    crop = torch.from_numpy(pixels[top : top + height, left : left + width])
    resized: UInt8[Tensor, "1 3 H W"] = F.interpolate(
        crop.permute(2, 0, 1)[None], target[::-1], mode=interpolation.name.lower(), antialias=True
    )
    return resized[0]


def _least_decoded(box: Box, width: int, height: int, target: tuple[int, int]) -> tuple[int, int]:
    """Return the least width and height of the image at which the crop has enough pixels."""
    if box.width <= 0 or box.height <= 0:
        raise SampleError(f"crop {tuple(box)} of an image of {width} x {height} has no pixels")
    columns, rows = (OVERSAMPLING * length for length in target)
    return ceil(width * columns / box.width), ceil(height * rows / box.height)
