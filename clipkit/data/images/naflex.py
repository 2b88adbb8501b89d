"""Images that keep their shape, within a budget of patches: NaFlex (SigLIP 2, section 2.4.2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

import numpy as np
from PIL import Image

from clipkit.data.images.augment import ImageAugmentation
from clipkit.data.images.formats import DEFAULT_MAX_PIXELS, WHITE, Color
from clipkit.data.images.transforms import CropTransform, ExactTransform
from clipkit.patches import TokenBudget


@final
class NaFlexTrainTransform(CropTransform):
    """A random crop of the image's own shape, resized to a budget of patches, then augmented.

    Nothing but the random crop is cut away, and the aspect ratio changes by less than one patch.
    For ``TimmNaFlexTower``; batches hold patches instead of images, see ``Batch.grids``.

    Args:
        patch_size: Height and width of a patch, in pixels.
        max_tokens: Largest number of patches of an image; a batch never has more than its number
            of images times this.
        scale: Smallest and largest share of the image's area in a crop.
        ratio: Smallest and largest factor of the image's width over height in a crop; (1, 1) keeps
            the shape.
        augmentations: Augmentations of the crop; see ``TrainTransform``.
        background: Colour behind transparent pixels; None shows the colour stored under them.
        random_background_probability: Share of the images with transparency that get a random
            background colour.
        fast: Whether JPEGs are decoded at a reduced scale if the crop allows it.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
        max_pixels: Largest number of pixels; larger images are refused before they are decoded.
        keep_decoded_mib: Memory for decoded images; see ``TrainTransform``.
        enlarge: Whether small images are enlarged until they use the budget, as SigLIP 2 does;
            otherwise they get the patches that their own pixels fill.

    Examples:
        >>> transform = NaFlexTrainTransform(patch_size=16, max_tokens=64)
        >>> transform(Path("dog.jpg").read_bytes(), np.random.default_rng(0)).shape
        torch.Size([3, 112, 144])
    """

    budget: TokenBudget

    def __init__(
        self,
        patch_size: int = 16,
        max_tokens: int = 256,
        scale: tuple[float, float] = (0.9, 1.0),
        ratio: tuple[float, float] = (1.0, 1.0),
        augmentations: list[ImageAugmentation | Callable[..., Any]] | None = None,
        background: Color | None = WHITE,
        random_background_probability: float = 0.0,
        fast: bool = True,
        interpolation: str = "bicubic",
        max_pixels: int = DEFAULT_MAX_PIXELS,
        keep_decoded_mib: int = 0,
        enlarge: bool = True,
    ) -> None:
        self.budget = TokenBudget(patch_size, max_tokens, enlarge)
        self.image_size = self.budget.square_size
        super().__init__(
            self.budget,
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

    def num_patches(self, data: bytes, rng: np.random.Generator) -> int:
        """Return the number of patches of the result, without decoding the image.

        Args:
            data: Bytes of the file.
            rng: Random generator of the sample, in the state for the transform.

        Raises:
            SampleError: If the header is not that of a usable image.
        """
        width, height = self.resized_size(data, rng)
        return width * height // self.budget.patch_size**2

    def _allowed_ratio(self, width: int, height: int) -> tuple[float, float]:
        return self.ratio[0] * width / height, self.ratio[1] * width / height


@final
class NaFlexEvalTransform(ExactTransform):
    """The complete image at its own shape, resized to a budget of patches.

    Args:
        patch_size: Height and width of a patch, in pixels.
        max_tokens: Largest number of patches of an image.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
        background: Colour behind transparent pixels; None shows the colour stored under them.
        max_pixels: Largest number of pixels; larger images are refused before they are decoded.
        enlarge: Whether small images are enlarged until they use the budget.

    Examples:
        >>> transform = NaFlexEvalTransform(patch_size=16, max_tokens=64)
        >>> transform.of_image(Image.new("RGB", (640, 320))).shape
        torch.Size([3, 80, 160])
    """

    budget: TokenBudget

    def __init__(
        self,
        patch_size: int = 16,
        max_tokens: int = 256,
        interpolation: str = "bicubic",
        background: Color | None = None,
        max_pixels: int = DEFAULT_MAX_PIXELS,
        enlarge: bool = True,
    ) -> None:
        self.budget = TokenBudget(patch_size, max_tokens, enlarge)
        self.image_size = self.budget.square_size
        super().__init__(interpolation, background, max_pixels)

    def _fitted(self, image: Image.Image) -> Image.Image:
        rows, columns = self.budget.grid(*image.size)
        size = columns * self.budget.patch_size, rows * self.budget.patch_size
        return image if image.size == size else image.resize(size, self.interpolation)
