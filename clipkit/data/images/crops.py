"""Which part of an image is used, and its size: pure functions of numbers."""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float64
from PIL import Image

from clipkit.data.images.decode import BLOCK_PIXELS, Box


def random_crop(
    draws: Float64[np.ndarray, "attempts 4"],
    width: int,
    height: int,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> Box:
    """Choose a crop of random area, shape and place: the first attempt that fits.

    If none fits, it is the largest crop in the centre whose shape is allowed.
    """
    log_ratio = (math.log(ratio[0]), math.log(ratio[1]))
    for area_draw, ratio_draw, column_draw, row_draw in draws.tolist():
        area = width * height * (scale[0] + (scale[1] - scale[0]) * area_draw)
        shape = math.exp(log_ratio[0] + (log_ratio[1] - log_ratio[0]) * ratio_draw)
        columns, rows = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < columns <= width and 0 < rows <= height:
            left = int(column_draw * (width - columns + 1))
            top = int(row_draw * (height - rows + 1))
            return Box(left, top, columns, rows)
    shape = min(max(width / height, ratio[0]), ratio[1])
    columns = max(1, min(width, round(height * shape)))
    rows = max(1, min(height, round(width / shape)))
    return Box((width - columns) // 2, (height - rows) // 2, columns, rows)


def on_blocks(box: Box) -> Box:
    """Move the edges of a large crop to edges of JPEG blocks, by at most 7 pixels.

    These are pixel edges at any scale of JPEG decoding. Resizing from between pixels would take
    five times as long.

    Examples:
        >>> on_blocks(Box(left=3, top=13, width=700, height=600))
        Box(left=0, top=16, width=696, height=592)
    """
    right, bottom = box.left + box.width, box.top + box.height
    left, top = (round(edge / BLOCK_PIXELS) * BLOCK_PIXELS for edge in (box.left, box.top))
    right, bottom = (edge // BLOCK_PIXELS * BLOCK_PIXELS for edge in (right, bottom))
    return Box(left, top, right - left, bottom - top)


def resized_size(width: int, height: int, size: int, mode: str) -> tuple[int, int]:
    """Return width and height after resizing, before the crop; rounded as open_clip does.

    Examples:
        >>> resized_size(640, 480, 224, "shortest")
        (298, 224)
    """
    if mode == "squash":
        return size, size
    if mode == "longest":
        factor = max(width, height) / size
        return max(1, round(width / factor)), max(1, round(height / factor))
    if width <= height:
        return size, int(size * height / width)
    return int(size * width / height), size


def centred(image: Image.Image, size: int) -> Image.Image:
    """Return the central square, black outside the image."""
    if image.width < size or image.height < size:
        canvas = Image.new("RGB", (max(size, image.width), max(size, image.height)))
        canvas.paste(
            image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2)
        )
        image = canvas
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))
