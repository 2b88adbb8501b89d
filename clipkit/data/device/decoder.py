"""Decode, crop and resize the images of a batch on the device."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Final, final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipkit.data.images.decode import Box, ImageDecoder
from clipkit.data.images.formats import DEFAULT_MAX_PIXELS
from clipkit.errors import ConfigError, DataError, SampleError
from clipkit.types import Batch, EncodedImages

JpegDecoder = Callable[[list[UInt8[Tensor, " bytes"]]], list[UInt8[Tensor, "3 rows columns"]]]
"""Decodes JPEG files in host memory to RGB on the device, all or none (``RuntimeError``)."""

_LOG: Final = logging.getLogger(__name__)
_BYTES_PER_MIB: Final = 2**20
_LOUD_REFUSALS: Final = 10


@final
class DeviceDecoder:
    """Decodes the images of batches whose workers sent files; see ``DeviceDecodedTransform``.

    Args:
        device: Device of the images.
        interpolation: ``"bicubic"`` or ``"bilinear"``.
        max_decoded_mib: Memory for decoded images before they are cropped, in MiB.
        decode: Decoder of JPEG files; None for torchvision's on the device.

    Raises:
        ConfigError: If the device or the torchvision cannot decode.
    """

    def __init__(
        self,
        device: torch.device | str,
        interpolation: str = "bicubic",
        max_decoded_mib: int = 1024,
        decode: JpegDecoder | None = None,
    ) -> None:
        self._device = torch.device(device)
        self._interpolation = interpolation
        self._max_bytes = max_decoded_mib * _BYTES_PER_MIB
        self._decode = nvjpeg_decoder(self._device) if decode is None else decode
        self._num_refused = 0

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with its images on the device; as it is if they were decoded.

        Raises:
            DataError: If a file that the workers found complete cannot be decoded.
        """
        encoded = batch.encoded
        if encoded is None:
            return batch
        size = int(encoded.crops[0, 0])
        images = torch.empty((len(batch), 3, size, size), dtype=torch.uint8, device=self._device)
        files = torch.split(encoded.files, encoded.lengths.tolist())
        for row in range(len(batch)):
            if not encoded.crops[row, 1]:
                images[row] = files[row].reshape(3, size, size).to(self._device, non_blocking=True)
        for rows in chunks(encoded, self._max_bytes):
            boxes = [Box(*encoded.crops[row, 3:].tolist()) for row in rows]
            self._fill(images, batch.keys, rows, [files[row] for row in rows], boxes)
        return replace(batch, images=images, encoded=None)

    def _fill(
        self,
        images: UInt8[Tensor, "B 3 size size"],
        keys: Sequence[str],
        rows: Sequence[int],
        files: list[UInt8[Tensor, " bytes"]],
        boxes: Sequence[Box],
    ) -> None:
        """Decode some images."""
        try:
            decoded = self._decoded(files)
        except RuntimeError:
            if len(rows) > 1:  # find the file that is to blame
                for row, file, box in zip(rows, files, boxes, strict=True):
                    self._fill(images, keys, [row], [file], [box])
                return
            images[rows[0]] = self._on_host(files[0], boxes[0], images.shape[-1], keys[rows[0]])
            return
        for row, pixels, box in zip(rows, decoded, boxes, strict=True):
            images[row] = resized_crop(pixels, box, images.shape[-1], self._interpolation)

    def _decoded(self, files: list[UInt8[Tensor, " bytes"]]) -> Sequence[Tensor]:
        """Decode files into memory that no queued kernel uses."""
        if self._device.type == "cuda":
            # The memory of earlier images is given out again in this stream, whose kernels may
            # still read it, while nvJPEG writes in a stream of its own without waiting for them.
            torch.cuda.current_stream(self._device).synchronize()
        return self._decode(files)

    def _on_host(self, file: UInt8[Tensor, " bytes"], box: Box, size: int, key: str) -> Tensor:
        self._num_refused += 1
        level = logging.WARNING if self._num_refused <= _LOUD_REFUSALS else logging.DEBUG
        _LOG.log(level, "sample %r: the device cannot decode its JPEG, decoding here", key)
        decoder = ImageDecoder(
            size, interpolation=self._interpolation, max_pixels=DEFAULT_MAX_PIXELS
        )
        try:
            return decoder(file.numpy().tobytes(), lambda *_: box).to(self._device)
        except SampleError as error:
            raise DataError(
                f"sample {key!r}: neither the device nor Pillow decodes its JPEG, whose header and "
                f"end are intact: {error.reason}; continue with workers that decode "
                f"(data.samples.transform: TrainTransform), which replace it"
            ) from error


def chunks(encoded: EncodedImages, max_bytes: int) -> Iterator[list[int]]:
    """Yield rows of files whose decoded pixels need at most ``max_bytes``, or of one file.

    Examples:
        >>> crops = torch.tensor([[8, 10, 10, 0, 0, 8, 8]] * 3)
        >>> images = EncodedImages(torch.zeros(3), torch.ones(3), crops)
        >>> list(chunks(images, max_bytes=600))
        [[0, 1], [2]]
    """
    rows: list[int] = []
    num_bytes = 0
    for row, (_, width, height, *_) in enumerate(encoded.crops.tolist()):
        if not width:
            continue
        if rows and num_bytes + 3 * width * height > max_bytes:
            yield rows
            rows, num_bytes = [], 0
        rows.append(row)
        num_bytes += 3 * width * height
    if rows:
        yield rows


def resized_crop(
    pixels: UInt8[Tensor, "3 rows columns"], box: Box, size: int, interpolation: str
) -> UInt8[Tensor, "3 size size"]:
    """Resize a crop with integer bounds, with antialiasing, on the device of the pixels."""
    left, top, width, height = map(int, box)
    crop = pixels[None, :, top : top + height, left : left + width].float()
    resized = F.interpolate(crop, (size, size), mode=interpolation, antialias=True)
    return resized[0].round_().clamp_(0, 255).to(torch.uint8)


def nvjpeg_decoder(device: torch.device) -> JpegDecoder:
    """Return torchvision's decoder on a CUDA device.

    Raises:
        ConfigError: If the device is not CUDA, or this torchvision does not decode there.
    """
    hint = "decode by workers: use the TrainTransform of DeviceDecodedTransform.crop alone"
    if device.type != "cuda" or not torch.cuda.is_available():
        raise ConfigError(
            f"DeviceDecodedTransform: expected a CUDA device, got {device.type}; {hint}"
        )
    try:
        from torchvision.io import ImageReadMode, decode_jpeg

        decode: JpegDecoder = partial(decode_jpeg, mode=ImageReadMode.RGB, device=device)
        decode([_small_jpeg()])  # builds without nvJPEG raise when it is called
    except (ImportError, AttributeError, RuntimeError) as error:
        raise ConfigError(
            f"DeviceDecodedTransform: this torchvision decodes no JPEGs on CUDA ({error}); {hint}"
        ) from error
    return decode


def _small_jpeg() -> UInt8[Tensor, " bytes"]:
    out = io.BytesIO()
    Image.new("RGB", (16, 16)).save(out, "JPEG")
    return torch.from_numpy(np.frombuffer(out.getvalue(), dtype=np.uint8).copy())
