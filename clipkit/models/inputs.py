"""Texts, images and sounds as a tower reads them: its own tokenizer, its own preprocessing.

The only file of this package that imports ``clipkit.data``, when a function is called; the data
know nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64, UInt8
from PIL import Image
from torch import Tensor

from clipkit.errors import ConfigError, DataError, SampleError
from clipkit.models.towers.base import ImageTower, SignalTower, TextTower
from clipkit.patches import JoinedImages, join_images

if TYPE_CHECKING:
    from clipkit.data import EvalSoundTransform, EvalTransform, NaFlexEvalTransform, Tokenizer

ImageInput = Image.Image | Path | str
"""An image of Pillow, or the path of an image file."""
SoundInput = Path | str | tuple[Any, int]
"""The path of a sound file, or amplitudes of one channel, -1 to 1, and their sample rate."""


def tokenizer_of(tower: TextTower) -> Tokenizer:
    """Return the tokenizer of a text tower."""
    return _tokenizer(tower.tokenizer_name, tower.context_length)


@cache
def _tokenizer(name: str, context_length: int) -> Tokenizer:
    from clipkit.data import tokenizer_from_name

    return tokenizer_from_name(name, context_length=context_length)


def transform_of(tower: ImageTower) -> EvalTransform | NaFlexEvalTransform:
    """Return the image transform that an image tower was trained for.

    Raises:
        ConfigError: If the encoder has no image tower.
    """
    from clipkit.data import EvalTransform, NaFlexEvalTransform

    if not tower.reads_images:
        raise ConfigError("image_tower: this encoder has none, so it cannot read images")

    if (budget := tower.budget) is not None:
        return NaFlexEvalTransform(
            budget.patch_size, budget.max_tokens, tower.interpolation, enlarge=budget.enlarge
        )
    return EvalTransform(
        tower.image_size, resize_mode=tower.resize_mode, interpolation=tower.interpolation
    )


def sound_transform_of(tower: SignalTower) -> EvalSoundTransform:
    """Return the transform from sound files to the spectrograms that a tower declares.

    Crop and padding are those of ``tower.mel``.

    Raises:
        ConfigError: If the tower declares none.
    """
    from clipkit.data import EvalSoundTransform

    if tower.mel is None:
        raise ConfigError(
            f"sounds: {type(tower).__name__} reads no spectrograms; give the tower mel, the "
            f"parameters of its spectrograms"
        )
    return EvalSoundTransform(tower.mel)


def token_batches(
    tower: TextTower, texts: Sequence[str], batch_size: int
) -> Iterator[Int64[Tensor, "B S"]]:
    """Yield the token ids of texts, in batches of at most ``batch_size``.

    Raises:
        ConfigError: If the texts are a single text, or one of them is no text.
    """
    if isinstance(texts, str):
        raise ConfigError(f"texts: expected a list of texts, got the text {texts[:40]!r}")
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(f"texts[{number}]: expected a text, got {type(text).__name__}")
    for start in range(0, len(texts), batch_size):
        yield tokenizer_of(tower)(texts[start : start + batch_size])


def pixel_batches(
    tower: ImageTower, images: Sequence[ImageInput], batch_size: int
) -> Iterator[JoinedImages]:
    """Yield the pixels of images, in batches of at most ``batch_size``, and the grids of patches.

    Raises:
        ConfigError: If the images are a single image, or one of them is no image and no path.
        DataError: If an image cannot be read.
    """
    if isinstance(images, ImageInput):
        raise ConfigError(f"images: expected a list of images, got one {type(images).__name__}")
    transform = transform_of(tower)
    for start in range(0, len(images), batch_size):
        numbers = range(start, min(start + batch_size, len(images)))
        pixels = [_pixels(transform, images[n], f"images[{n}]") for n in numbers]
        yield join_images(pixels, tower.budget)


def pixels_of(tower: ImageTower, image: ImageInput, where: str) -> UInt8[Tensor, "3 H W"]:
    """Return the pixels of an image as an image tower reads it.

    Raises:
        ConfigError: If it is no image and no path; the message starts with ``where``.
        DataError: If it cannot be read.
    """
    return _pixels(transform_of(tower), image, where)


def sound_batches(
    tower: SignalTower, sounds: Sequence[SoundInput], batch_size: int
) -> Iterator[Float[Tensor, "B num_mels num_frames"]]:
    """Yield the spectrograms of sounds, in batches of at most ``batch_size``.

    Raises:
        ConfigError: If the tower reads no sounds, or one of them is no path and no wave.
        DataError: If a sound cannot be read.
    """
    if isinstance(sounds, Path | str):
        raise ConfigError(f"sounds: expected a list of sounds, got one {type(sounds).__name__}")
    transform = sound_transform_of(tower)
    for start in range(0, len(sounds), batch_size):
        numbers = range(start, min(start + batch_size, len(sounds)))
        yield torch.stack([_spectrogram(transform, sounds[n], f"sounds[{n}]") for n in numbers])


def _spectrogram(
    transform: EvalSoundTransform, sound: SoundInput, where: str
) -> Float[Tensor, "num_mels num_frames"]:
    try:
        if isinstance(sound, Path | str):
            where = f"{where}: {sound}"
            return transform.of_file(Path(sound).read_bytes())
        wave, sample_rate = sound
        return transform.of_wave(_amplitudes(np.asarray(wave), where), int(sample_rate))
    except SampleError as error:
        raise DataError(f"{where}: {error.reason}") from error
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error
    except ConfigError:
        raise
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"{where}: expected the path of a sound file, or (amplitudes, sample rate), got "
            f"{type(sound).__name__}"
        ) from error


def _amplitudes(wave: np.ndarray, where: str) -> Float32[np.ndarray, " length"]:
    """Return one channel of floats, also of an array with a second axis of size 1."""
    if wave.ndim < 1 or wave.size != max(wave.shape):
        raise ConfigError(
            f"{where}: expected amplitudes of one channel, [length], got {list(wave.shape)}; use "
            f"the mean of the channels"
        )
    if wave.dtype.kind != "f":
        raise ConfigError(
            f"{where}: expected amplitudes as floats, -1 to 1, got {wave.dtype}; divide integers "
            f"by the largest one of their type"
        )
    with np.errstate(over="ignore"):  # infinity is refused with its reason
        return wave.reshape(-1).astype(np.float32)


def _pixels(
    transform: EvalTransform | NaFlexEvalTransform, image: ImageInput, where: str
) -> UInt8[Tensor, "3 H W"]:
    if not isinstance(image, ImageInput):
        raise ConfigError(
            f"{where}: expected an image of Pillow or the path of an image file, got "
            f"{type(image).__name__}"
        )
    try:
        if isinstance(image, Image.Image):
            return transform.of_image(image)
        where = f"{where}: {image}"
        return transform.of_file(Path(image).read_bytes())
    except SampleError as error:
        raise DataError(f"{where}: {error.reason}") from error
    except OSError as error:
        raise DataError(f"{where}: cannot be read: {error.strerror or error}") from error
