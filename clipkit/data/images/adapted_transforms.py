"""Transforms of torchvision and albumentations as augmentations.

Both libraries take their random numbers from generators that all samples of a process share. Here
these are set from the sample's own generator before each call, so that a sample is the same on any
rank or worker and after a resume.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from clipkit.data.images.augment import ImageAugmentation
from clipkit.errors import ConfigError, DataError

Augmentation = ImageAugmentation | Callable[..., Any]
"""An augmentation, or a transform of ``torchvision.transforms.v2`` or albumentations."""

_SEEDS: Final = 2**32
_NUMPY: Final = np.random.MT19937()
"""Takes the place of NumPy's global generator during a call."""


@final
class TorchvisionTransform(ImageAugmentation):
    """Calls a transform of ``torchvision.transforms.v2``.

    Args:
        transform: The transform, which maps uint8 pixels ``[3 H W]`` to pixels of that form.
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform

    def __call__(
        self, pixels: UInt8[Tensor, "3 H W"], rng: np.random.Generator
    ) -> UInt8[Tensor, "3 H W"]:
        """See `ImageAugmentation`."""
        with seeded(int(rng.integers(_SEEDS))):
            changed = self.transform(pixels.clone())  # it may write to its input
        return _checked(changed, pixels, self.transform)


@final
class AlbumentationsTransform(ImageAugmentation):
    """Calls a transform of albumentations.

    Args:
        transform: The transform, which maps uint8 pixels ``[H W 3]`` to pixels of that form.
    """

    def __init__(self, transform: Callable[..., Any]) -> None:
        self.transform = transform

    def __call__(
        self, pixels: UInt8[Tensor, "3 H W"], rng: np.random.Generator
    ) -> UInt8[Tensor, "3 H W"]:
        """See `ImageAugmentation`."""
        seed = int(rng.integers(_SEEDS))
        transform: Any = self.transform
        transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
        image = pixels.permute(1, 2, 0).contiguous().numpy().copy()
        with seeded(seed):
            changed = transform(image=image)["image"]
        if isinstance(changed, np.ndarray):
            changed = torch.from_numpy(np.ascontiguousarray(changed)).permute(2, 0, 1)
        return _checked(changed, pixels, transform)


def as_augmentation(transform: Augmentation) -> ImageAugmentation:
    """Return an augmentation for a transform of clipkit, torchvision or albumentations.

    Raises:
        ConfigError: If it is a transform of another kind.

    Examples:
        >>> from torchvision.transforms import v2
        >>> invert = as_augmentation(v2.RandomInvert(p=1.0))
        >>> invert(torch.zeros(3, 4, 4, dtype=torch.uint8), np.random.default_rng(0)).unique()
        tensor([255], dtype=torch.uint8)
    """
    if isinstance(transform, ImageAugmentation):
        return transform
    bases = [base.__module__ for base in type(transform).__mro__]
    if any(name.startswith("torchvision.transforms.v2") for name in bases):
        return TorchvisionTransform(transform)
    if any(name.partition(".")[0] == "albumentations" for name in bases):
        if not hasattr(transform, "set_random_state"):
            raise ConfigError(
                "augmentations: expected albumentations 2.0 or later, whose transforms take a "
                "generator; pip install 'clipkit[albumentations]'"
            )
        return AlbumentationsTransform(transform)
    kind = f"{type(transform).__module__}.{type(transform).__qualname__}"
    hint = ""
    if kind.startswith("torchvision."):
        hint = f"; torchvision.transforms.v2 has {type(transform).__name__}, too"
    raise ConfigError(
        f"augmentations: expected a clipkit.data.ImageAugmentation, or a transform of "
        f"torchvision.transforms.v2 or albumentations, got {kind}{hint}"
    )


def is_thread_safe(transform: object) -> bool:
    """Return whether an image transform may be called in several threads at a time.

    Generators that all threads share would give random numbers in the order of the calls.
    """
    augmentations = getattr(transform, "augmentations", ())
    return not any(
        isinstance(one, TorchvisionTransform | AlbumentationsTransform) for one in augmentations
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators of torch (on the CPU), NumPy and Python, and restore them afterwards.

    NumPy's is exchanged, which takes 1 us instead of the 170 us for its state; the second of two
    normal numbers that it may have drawn is lost.
    """
    torch_state, python_state = torch.get_rng_state(), random.getstate()
    numpy_generator = np.random.get_bit_generator()  # type: ignore[attr-defined]
    try:
        torch.default_generator.manual_seed(seed)
        np.random.set_bit_generator(_NUMPY)  # type: ignore[attr-defined]
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        torch.set_rng_state(torch_state)
        np.random.set_bit_generator(numpy_generator)  # type: ignore[attr-defined]
        random.setstate(python_state)


def _checked(
    changed: Any, pixels: UInt8[Tensor, "3 H W"], transform: object
) -> UInt8[Tensor, "3 H W"]:
    """Return the result of a transform as a plain tensor, if it has the form of its input."""
    result = torch.as_tensor(changed).as_subclass(Tensor)
    if result.dtype != torch.uint8 or result.shape != pixels.shape:
        raise DataError(
            f"augmentations: {type(transform).__name__}: expected pixels uint8 "
            f"{list(pixels.shape)}, got {result.dtype} {list(result.shape)}; the crop sets the "
            f"size, and the encoder normalises"
        )
    return result
