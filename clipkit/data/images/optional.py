"""Samples without an image."""

from __future__ import annotations

from typing import final

import numpy as np
import torch

from clipkit.data.images.device_decoded import DeviceDecodedTransform
from clipkit.data.images.formats import RGB
from clipkit.data.images.transforms import ImageTransform
from clipkit.errors import ConfigError


@final
class OptionalImage(ImageTransform):
    """Accepts samples without an image file: zeros as pixels, and False in ``batch.image_present``.

    ``batch.pair_mask`` then excludes them from losses over images and captions; what else such a
    sample has is trained on. ``OptionalCaption`` does the same for captions.

    Args:
        transform: Transform of the images of the other samples; None to read no image at all, for
            an encoder without an image tower.

    Raises:
        ConfigError: If the transform returns images of any shape, or lets the device decode.

    Examples:
        >>> OptionalImage(EvalTransform(32)).empty().shape
        torch.Size([3, 32, 32])
    """

    def __init__(self, transform: ImageTransform | None = None) -> None:
        if isinstance(transform, DeviceDecodedTransform | OptionalImage) or (
            transform is not None and transform.budget is not None
        ):
            raise ConfigError(
                f"OptionalImage.transform: expected images of one shape that workers decode, got "
                f"{type(transform).__name__}; use TrainTransform or EvalTransform"
            )
        self.transform = transform
        self.image_size = 1 if transform is None else transform.image_size

    @property
    def reads_images(self) -> bool:
        """Whether image files are read, where there is one."""
        return self.transform is not None

    def __call__(self, data: bytes, rng: np.random.Generator) -> RGB:
        """See ``ImageTransform``."""
        return self.empty() if self.transform is None else self.transform(data, rng)

    def empty(self) -> RGB:
        """Return the pixels of a sample without an image."""
        return torch.zeros((3, self.image_size, self.image_size), dtype=torch.uint8)

    def at_size(self, size: int) -> ImageTransform | None:
        """See ``ImageTransform.at_size``."""
        resized = None if self.transform is None else self.transform.at_size(size)
        return None if resized is None else OptionalImage(resized)
