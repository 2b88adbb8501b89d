"""Transform the bytes of an image file to a model's input, in training and in evaluation."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any, Final, final

import numpy as np
from jaxtyping import Float64
from PIL import Image

from clipkit.data.images.adapted_transforms import as_augmentation
from clipkit.data.images.augment import ImageAugmentation, check_interval, check_probability
from clipkit.data.images.crops import centred, on_blocks, random_crop, resized_size
from clipkit.data.images.decode import (
    OVERSAMPLING,
    Box,
    CropChooser,
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

    def at_size(self, size: int) -> ImageTransform | None:  # noqa: ARG002
        """Return this transform at another size, with the same crops; None if it has no other.

        Args:
            size: Width and height of the results, in pixels.
        """
        return None


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
        self.interpolation, self.max_pixels = interpolation, max_pixels
        self.keep_decoded_mib = keep_decoded_mib
        self.scale = check_interval(f"{name}.scale", scale, 1e-4, 1.0)
        self.ratio = check_interval(f"{name}.ratio", ratio, 1e-2, 1e2)
        self.augmentations = [as_augmentation(one) for one in augmentations or ()]
        self.random_background_probability = check_probability(random_background_probability)
        self._decode = self._full_size = ImageDecoder(
            size, fast, background, interpolation, max_pixels, keep_decoded_mib
        )

    @abstractmethod
    def _allowed_ratio(self, width: int, height: int) -> tuple[float, float]:
        """Return the smallest and largest width over height of a crop of an image."""

    def __call__(self, data: bytes, rng: np.random.Generator) -> RGB:
        """See `ImageTransform`."""
        pixels = self._decode(data, *self.drawn(rng))
        for augment in self.augmentations:
            pixels = augment(pixels, rng)
        return pixels.contiguous()

    def drawn(self, rng: np.random.Generator) -> tuple[CropChooser, Color | None]:
        """Draw the crop and the background of an image; None for the background of all."""
        # Drawn at once, so that later draws do not depend on the image's shape.
        draws = rng.random((_CROP_ATTEMPTS, 4))
        background = None
        if rng.random() < self.random_background_probability:
            red, green, blue = rng.integers(0, 256, 3).tolist()
            background = (red, green, blue)
        return partial(self._crop, draws), background

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
        # Not by the size of `at_size`: the crop must be the same.
        columns, rows = self._full_size.target(box)
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

    def at_size(self, size: int) -> TrainTransform:
        """Return this transform with results of another size, from the same crops.

        Augmentations change the resized crop. Of those of clipkit only the noise of
        ``RandomErasing`` depends on the size.

        Args:
            size: Width and height of the results, in pixels.
        """
        resized = copy.copy(self)
        resized.image_size = size
        resized._decode = self._decode.at_size(size)
        return resized

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
        return centred(image, self.image_size)
