"""Images that workers do not decode: the file and the crop are sent to the device."""

from __future__ import annotations

import copy
from typing import Final, final

import numpy as np
import simplejpeg
import torch
from jaxtyping import UInt8
from torch import Tensor

from clipkit.data.images.decode import Box
from clipkit.data.images.formats import RGB
from clipkit.data.images.jpeg import plain_jpeg_size
from clipkit.data.images.transforms import ImageTransform, TrainTransform
from clipkit.errors import ConfigError, check_at_least
from clipkit.types import EncodedImage

_DECODED_FRAMES: Final = frozenset({0xC0, 0xC2})
"""Markers of baseline and progressive JPEGs, which nvJPEG decodes."""
_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_END: Final = b"\xff\xd9"


@final
class DeviceDecodedTransform(ImageTransform):
    """The crops of a ``TrainTransform``, decoded and resized by the GPU instead of by workers.

    Workers read the header of a JPEG, choose the crop and send the file. Files that nvJPEG cannot
    decode (PNG, WebP, CMYK, turned by EXIF, truncated) are decoded by the workers, so that bad ones
    are counted and replaced as always. Order and crops are those of ``crop``; pixels differ by the
    decoder and the resampling. Needs CUDA and a torchvision with ``decode_jpeg`` for CUDA; for
    training only.

    Args:
        crop: Transform whose crops are taken, without augmentations.
        max_decoded_mib: Memory of the GPU for decoded images before they are cropped, in MiB; a
            larger image is decoded by the workers.

    Raises:
        ConfigError: If ``crop`` has augmentations, or keeps decoded images.

    Examples:
        >>> transform = DeviceDecodedTransform(TrainTransform(64))
        >>> image = transform.encode(Path("dog.jpg").read_bytes(), np.random.default_rng(0))
        >>> image.crop[:3]  # 64 pixels, from a file of 40 x 32
        tensor([64, 40, 32])
    """

    def __init__(self, crop: TrainTransform, max_decoded_mib: int = 1024) -> None:
        if crop.augmentations:
            raise ConfigError(
                "DeviceDecodedTransform.crop: expected no augmentations, which change pixels in "
                f"the workers, got {type(crop.augmentations[0]).__name__}; omit them, or use the "
                f"TrainTransform alone"
            )
        if crop.keep_decoded_mib:
            raise ConfigError(
                "DeviceDecodedTransform.crop.keep_decoded_mib: expected 0, because workers do not "
                f"decode, got {crop.keep_decoded_mib}; omit it"
            )
        self.crop = crop
        self.image_size = crop.image_size
        check_at_least("DeviceDecodedTransform.max_decoded_mib", max_decoded_mib, 1)
        self.max_decoded_mib = max_decoded_mib

    def __call__(self, data: bytes, rng: np.random.Generator) -> RGB:
        """Decode here, as ``crop`` does."""
        return self.crop(data, rng)

    def at_size(self, size: int) -> DeviceDecodedTransform:
        """Return this transform with results of another size, from the same crops."""
        resized = copy.copy(self)
        resized.crop = self.crop.at_size(size)
        resized.image_size = size
        return resized

    def encode(self, data: bytes, rng: np.random.Generator) -> EncodedImage:
        """Choose the crop of a file, or decode one that the device cannot.

        Args:
            data: Bytes of the file.
            rng: Random generator of the sample.

        Raises:
            SampleError: If the bytes are not a usable image.
        """
        before = copy.deepcopy(rng)
        choose, _ = self.crop.drawn(rng)
        size = device_jpeg_size(data, self.crop.max_pixels)
        if size is None or 3 * size[0] * size[1] > self.max_decoded_mib * 2**20:
            pixels = self.crop(data, before)
            return _encoded(pixels.reshape(-1), self.image_size, (0, 0), Box(0, 0, 0, 0))
        file = torch.from_numpy(np.frombuffer(data, dtype=np.uint8).copy())
        return _encoded(file, self.image_size, size, choose(*size))


def device_jpeg_size(data: bytes, max_pixels: int) -> tuple[int, int] | None:
    """Return width and height of a JPEG that nvJPEG decodes to upright RGB; None for others.

    Raises:
        SampleError: If it has more than ``max_pixels``, or none.
    """
    if frame_marker(data) not in _DECODED_FRAMES or _END not in data[-64:]:
        return None  # another format, lossless or arithmetic coding, or truncated
    try:
        size = plain_jpeg_size(data, max_pixels)
        # Three components without YCbCr are rare, and nvJPEG would mistake them.
        return size if simplejpeg.decode_jpeg_header(data)[2] in {"YCbCr", "Gray"} else None
    except ValueError:
        return None


def frame_marker(data: bytes) -> int | None:
    """Return the marker of a JPEG's frame, which names its coding; None if there is none."""
    position = 2
    while data.startswith(b"\xff\xd8") and position + 4 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker in _FRAMES:
            return marker
        is_padding = marker == 0xFF
        step = 1 if is_padding else 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        position += step
    return None


def _encoded(
    file: UInt8[Tensor, " bytes"], size: int, file_size: tuple[int, int], box: Box
) -> EncodedImage:
    return EncodedImage(file, torch.tensor([size, *file_size, *map(int, box)], dtype=torch.int64))
