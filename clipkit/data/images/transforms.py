"""Transform the bytes of an image file to a model's input, in training and in evaluation."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float64
from PIL import Image

from clipkit.data.images.adapted_transforms import as_augmentation
from clipkit.data.images.augment import ImageAugmentation, check_interval, check_probability
from clipkit.data.images.decode import (
    BLOCK_PIXELS,
    OVERSAMPLING,
    Box,
    ImageDecoder,
    check_image_size,
    check_interpolation,
    to_tensor,
)
from clipkit.data.images.formats import (
    DEFAULT_MAX_PIXELS,
    RGB,
    WHITE,
    Color,
    Orientation,
    check_max_pixels,
    check_size,
    open_image,
    orientation_of,
    to_rgb,
)
from clipkit.errors import check_choice
from clipkit.patches import TokenBudget

RESIZE_MODES: Final = ("shortest", "longest", "squash")
_CROP_ATTEMPTS: Final = 10


class ImageTransform(ABC):
    """Transforms the bytes of an image file to pixels (abstract).

    Attributes:
        image_size: Width and height of the result, in pixels; of the largest square if there is a
            budget.
        budget: How many patches a result may have, if the shape follows the image; else None.
    """

    image_size: int
    budget: TokenBudget | None = None

    @abstractmethod
    def __call__(self, data: bytes, rng: np.random.Generator) -> RGB:
        """Decode, crop and change one image.

        Args:
            data: Bytes of the file.
            rng: Random generator of the sample; the result depends only on it and ``data``.

        Returns:
            Pixels, 0 to 255; the encoder normalises them.

        Raises:
            SampleError: If the bytes are not a usable image.
        """


class CropTransform(ImageTransform):
    """A random crop, resized, then augmented (abstract); arguments as for ``TrainTransform``."""

    def __init__(
        self,
        size: int | TokenBudget,
        scale: tuple[float, float],
        ratio: tuple[float, float],
        augmentations: list[ImageAugmentation | Callable[..., Any]] | None,
        background: Color | None,
        random_background_probability: float,
        fast: bool,
        interpolation: str,
        max_pixels: int,
        keep_decoded_mib: int,
    ) -> None:
        name = type(self).__name__
        self.scale = check_interval(f"{name}.scale", scale, 1e-4, 1.0)
        self.ratio = check_interval(f"{name}.ratio", ratio, 1e-2, 1e2)
        self.augmentations = [as_augmentation(one) for one in augmentations or ()]
        self.random_background_probability = check_probability(random_background_probability)
        self._decode = ImageDecoder(
            size, fast, background, interpolation, max_pixels, keep_decoded_mib
        )

    @abstractmethod
    def _allowed_ratio(self, width: int, height: int) -> tuple[float, float]:
        """Return the smallest and largest width over height of a crop of an image."""

    def __call__(self, data: bytes, rng: np.random.Generator) -> RGB:
        """See `ImageTransform`."""
        # Drawn at once, so that later draws do not depend on the image's shape.
        draws = rng.random((_CROP_ATTEMPTS, 4))
        background = None
        if rng.random() < self.random_background_probability:
            red, green, blue = rng.integers(0, 256, 3).tolist()
            background = (red, green, blue)

        pixels = self._decode(data, partial(self._crop, draws), background)
        for augment in self.augmentations:
            pixels = augment(pixels, rng)
        return pixels.contiguous()

    def resized_size(self, data: bytes, rng: np.random.Generator) -> tuple[int, int]:
        """Return the width and height of the result, in pixels, without decoding the image.

        Raises:
            SampleError: If the header is not that of a usable image.
        """
        image = open_image(data, self._decode.max_pixels)
        turn = orientation_of(image, data)
        upright = image.size[::-1] if turn and turn.swaps else image.size
        return self._decode.target(self._crop(rng.random((_CROP_ATTEMPTS, 4)), *upright))

    def _crop(self, draws: Float64[np.ndarray, "attempts 4"], width: int, height: int) -> Box:
        ratio = self._allowed_ratio(width, height)
        box = random_crop(draws, width, height, self.scale, ratio)
        columns, rows = self._decode.target(box)
        shrinks = min(box.width / columns, box.height / rows)
        return on_blocks(box) if shrinks >= 2 * OVERSAMPLING else box


@final
class TrainTransform(CropTransform):
    """A random crop, resized, then augmented.

    Args:
        size: Width and height of the result, in pixels.
        scale: Smallest and largest share of the image's area in a crop.
        ratio: Smallest and largest width over height of a crop.
        augmentations: Augmentations of the crop, in order: those of ``clipkit.data``, and any
            transform of ``torchvision.transforms.v2`` or albumentations that keeps size and dtype.
        background: Colour behind transparent pixels; None shows the colour stored under them, as
            open_clip does. Evaluate drawings with the same background.
        random_background_probability: Share of the images with transparency that get a random
            background colour.
        fast: Whether JPEGs are decoded at a reduced scale if the crop allows it.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
        max_pixels: Largest number of pixels; larger images are refused before they are decoded.
        keep_decoded_mib: Memory for decoded images, in MiB per process that loads data: a small
            data set is decoded once and not in every epoch. The pixels are the same.

    Examples:
        >>> transform = TrainTransform(64, (0.5, 1.0), augmentations=[HorizontalFlip()])
        >>> transform.image_size
        64
    """

    def __init__(
        self,
        size: int = 224,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] = (3 / 4, 4 / 3),
        augmentations: list[ImageAugmentation | Callable[..., Any]] | None = None,
        background: Color | None = WHITE,
        random_background_probability: float = 0.0,
        fast: bool = True,
        interpolation: str = "bicubic",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        keep_decoded_mib: int = 0,
    ) -> None:
        self.image_size = size
        super().__init__(
            size,
            scale,
            ratio,
            augmentations,
            background,
            random_background_probability,
            fast,
            interpolation,
            max_pixels,
            keep_decoded_mib,
        )

    def _allowed_ratio(self, width: int, height: int) -> tuple[float, float]:  # noqa: ARG002
        return self.ratio


class ExactTransform(ImageTransform):
    """The image decoded exactly, upright and without random numbers (abstract)."""

    def __init__(self, interpolation: str, background: Color | None, max_pixels: int) -> None:
        self.interpolation = check_interpolation(interpolation)
        self.background = background
        self.max_pixels = check_max_pixels(max_pixels)

    def __call__(self, data: bytes, rng: np.random.Generator) -> RGB:  # noqa: ARG002
        """See `ImageTransform`."""
        return self.of_file(data)

    def of_file(self, data: bytes) -> RGB:
        """Return the pixels of the bytes of an image file.

        Raises:
            SampleError: If they cannot be decoded.
        """
        image = open_image(data, self.max_pixels)
        return self.of_opened(image, orientation_of(image, data))

    def of_image(self, image: Image.Image) -> RGB:
        """Return the pixels of an image of Pillow, which is not changed.

        Raises:
            SampleError: If it has too many pixels or none, or its file cannot be decoded.
        """
        check_size(image.width, image.height, self.max_pixels)
        return self.of_opened(image, orientation_of(image))

    def of_opened(self, image: Image.Image, turn: Orientation | None) -> RGB:
        """Return the pixels of an opened image with this orientation, whose size is checked."""
        pixels = to_rgb(image, self.background)
        if turn:
            pixels = pixels.transpose(turn.method)
        return to_tensor(self._fitted(pixels)).contiguous()

    @abstractmethod
    def _fitted(self, image: Image.Image) -> Image.Image:
        """Return an upright image at the size of the result."""


@final
class EvalTransform(ExactTransform):
    """The complete image or its centre, decoded exactly and without random numbers.

    Pixels equal those of open_clip's evaluation transform (before normalisation) after
    WebDataset's conversion to RGB, with two deliberate exceptions, where those pixels are wrong:
    images are turned upright by the EXIF orientation, and 16-bit images are scaled to 8 bits
    instead of clipped.

    Args:
        size: Width and height of the result, in pixels.
        resize_mode: ``"shortest"`` fits the shorter side and crops the longer one, ``"longest"``
            fits the longer side and pads with black, ``"squash"`` fits both.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
        background: Colour behind transparent pixels; None shows the colour stored under them, as
            open_clip does. For drawings, use the background of the training.
        max_pixels: Largest number of pixels; larger images are refused before they are decoded.
    """

    def __init__(
        self,
        size: int = 224,
        resize_mode: str = "shortest",
        interpolation: str = "bicubic",
        background: Color | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
    ) -> None:
        self.image_size = check_image_size(size)
        check_choice("resize_mode", resize_mode, RESIZE_MODES)
        self.resize_mode = resize_mode
        super().__init__(interpolation, background, max_pixels)

    def _fitted(self, image: Image.Image) -> Image.Image:
        fitted = resized_size(*image.size, self.image_size, self.resize_mode)
        if image.size != fitted:
            image = image.resize(fitted, self.interpolation)
        return _centred(image, self.image_size)


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


def _centred(image: Image.Image, size: int) -> Image.Image:
    """Return the central square, black outside the image."""
    if image.width < size or image.height < size:
        canvas = Image.new("RGB", (max(size, image.width), max(size, image.height)))
        canvas.paste(
            image, ((canvas.width - image.width) // 2, (canvas.height - image.height) // 2)
        )
        image = canvas
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return image.crop((left, top, left + size, top + size))
