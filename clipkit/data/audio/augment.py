"""Augmentations of training sounds: small classes that are chosen and ordered in YAML.

Every augmentation uses only the sample's random generator. Sounds are therefore not mixed with
other samples of the batch or of the shard: which ones are there depends on the batch size, on the
number of ranks and on samples that cannot be read, and a resumed run would mix others.
``RandomBackground`` mixes with files that are the same in every run instead.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

import numpy as np

from clipkit.data.audio.decode import Span, decode_sound
from clipkit.data.audio.formats import SoundLimits
from clipkit.data.audio.pieces import padded, piece_at, resampled, source_length
from clipkit.errors import ConfigError, SampleError, check_at_least, check_range
from clipkit.mel import Spectrogram, Wave

_LOUDEST_DECIBELS: Final = 120.0


class SoundAugmentation(ABC):
    """Changes a share of the sounds randomly; the others stay as they are (abstract)."""

    def __init__(self, probability: float) -> None:
        self.probability = check_range("probability", probability, 0.0, 1.0)

    def __call__(self, wave: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the changed sound, of the same length.

        Args:
            wave: Amplitudes of one channel; not written to.
            sample_rate: Samples per second.
            rng: Random generator of the sample.
        """
        return self._changed(wave, sample_rate, rng) if rng.random() < self.probability else wave

    @abstractmethod
    def _changed(self, wave: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        """Return the changed sound."""


@final
class RandomGain(SoundAugmentation):
    """Changes the volume.

    Args:
        decibels: Smallest and largest gain.
        probability: Share of the sounds that are changed.
    """

    def __init__(
        self, decibels: tuple[float, float] = (-6.0, 6.0), probability: float = 1.0
    ) -> None:
        self.decibels = check_decibels("RandomGain.decibels", decibels)
        super().__init__(probability)

    def _changed(self, wave: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:  # noqa: ARG002
        return wave * np.float32(10.0 ** (rng.uniform(*self.decibels) / 20.0))


@final
class RandomNoise(SoundAugmentation):
    """Adds white noise.

    Args:
        decibels: Smallest and largest ratio of the sound's energy to that of the noise. Silence
            stays silent.
        probability: Share of the sounds that are changed.
    """

    def __init__(
        self, decibels: tuple[float, float] = (15.0, 40.0), probability: float = 0.5
    ) -> None:
        self.decibels = check_decibels("RandomNoise.decibels", decibels)
        super().__init__(probability)

    def _changed(self, wave: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:  # noqa: ARG002
        ratio = rng.uniform(*self.decibels)
        return mixed(wave, rng.standard_normal(len(wave), dtype=np.float32), ratio)


@final
class RandomBackground(SoundAugmentation):
    """Mixes in a random piece of a random file, such as a recording of rain or of a street.

    Args:
        files: Sound files; short ones are repeated.
        decibels: Smallest and largest ratio of the sound's energy to that of the background.
        probability: Share of the sounds that are changed.
        limits: Largest files.

    Raises:
        ConfigError: If there are no files, or one cannot be read.

    Examples:
        >>> RandomBackground(["bark.wav"], decibels=(10, 20)).probability
        0.5
    """

    def __init__(
        self,
        files: Sequence[str],
        decibels: tuple[float, float] = (5.0, 20.0),
        probability: float = 0.5,
        limits: SoundLimits = SoundLimits(),
    ) -> None:
        self.decibels = check_decibels("RandomBackground.decibels", decibels)
        self.limits = limits
        if not files:
            raise ConfigError("RandomBackground.files: expected at least one sound, got none")
        self._sounds = [_content(file, limits) for file in files]
        super().__init__(probability)

    def _changed(self, wave: Wave, sample_rate: int, rng: np.random.Generator) -> Wave:
        number, place = rng.integers(len(self._sounds)), rng.random()
        ratio = rng.uniform(*self.decibels)

        def choose(length: int, source_rate: int) -> Span:
            return piece_at(place, length, source_length(len(wave), sample_rate, source_rate))

        piece, source_rate = decode_sound(self._sounds[number], choose, self.limits)
        background = padded(resampled(piece, source_rate, sample_rate), len(wave), "repeat")
        return mixed(wave, background, ratio)


@final
class SpecAugment:
    """Masks bands and periods of a spectrogram with its mean value (Park et al. 2019).

    Args:
        num_time_masks: Number of periods that are masked; they may overlap.
        max_frames: Longest period, in frames.
        num_mel_masks: Number of ranges of mel bands that are masked; they may overlap.
        max_mels: Widest range, in mel bands.

    Raises:
        ConfigError: If a number is negative.
    """

    def __init__(
        self,
        num_time_masks: int = 2,
        max_frames: int = 50,
        num_mel_masks: int = 2,
        max_mels: int = 8,
    ) -> None:
        for name, value in {
            "num_time_masks": num_time_masks,
            "max_frames": max_frames,
            "num_mel_masks": num_mel_masks,
            "max_mels": max_mels,
        }.items():
            check_at_least(f"SpecAugment.{name}", value, 0)
        self.num_time_masks, self.max_frames = num_time_masks, max_frames
        self.num_mel_masks, self.max_mels = num_mel_masks, max_mels

    def __call__(self, spectrogram: Spectrogram, rng: np.random.Generator) -> Spectrogram:
        """Return the masked spectrogram.

        Args:
            spectrogram: Values by mel band and frame; not written to.
            rng: Random generator of the sample.
        """
        num_mels, num_frames = spectrogram.shape
        # Drawn as shares, so that later draws do not depend on the shape.
        draws = rng.random((self.num_mel_masks + self.num_time_masks, 2)).tolist()
        masked, mean = spectrogram.clone(), spectrogram.mean().item()
        for number, (width, place) in enumerate(draws):
            if number < self.num_mel_masks:
                start, stop = _mask(width, place, self.max_mels, num_mels)
                masked[start:stop] = mean
            else:
                start, stop = _mask(width, place, self.max_frames, num_frames)
                masked[:, start:stop] = mean
        return masked


def mixed(wave: Wave, other: Wave, ratio: float) -> Wave:
    """Add another sound of a relative volume.

    Args:
        wave: Amplitudes.
        other: Amplitudes of the same length.
        ratio: Energy of ``wave`` relative to the added sound, in decibels.

    Examples:
        >>> mixed(np.float32([2.0, -2.0]), np.float32([5.0, 5.0]), ratio=20.0).tolist()
        [2.200000047683716, -1.7999999523162842]
    """
    loudness, other_loudness = (
        float(np.sqrt(np.mean(np.square(one), dtype=np.float64))) for one in (wave, other)
    )
    if other_loudness == 0.0:
        return wave
    return wave + other * np.float32(loudness / other_loudness * 10.0 ** (-ratio / 20.0))


def check_decibels(option: str, interval: tuple[float, float]) -> tuple[float, float]:
    """Return an interval of decibels if its bounds are in order."""
    low, high = interval
    if not -_LOUDEST_DECIBELS <= low <= high <= _LOUDEST_DECIBELS:
        raise ConfigError(
            f"{option}: expected two numbers from -{_LOUDEST_DECIBELS:g} to {_LOUDEST_DECIBELS:g}, "
            f"the smaller one first, got {interval}"
        )
    return low, high


def _mask(width: float, place: float, most: int, length: int) -> tuple[int, int]:
    """Return start and end of a mask of 0 to ``most`` places, anywhere inside."""
    size = min(int(width * (most + 1)), length)
    start = int(place * (length - size + 1))
    return start, start + size


def _content(file: str, limits: SoundLimits) -> bytes:
    """Return the bytes of a file that can be decoded."""
    try:
        data = Path(file).read_bytes()
        decode_sound(data, lambda length, _: Span(0, min(length, 1)), limits)
    except (OSError, SampleError) as error:
        raise ConfigError(f"RandomBackground.files: {file}: cannot be used: {error}") from error
    return data
