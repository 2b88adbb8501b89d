"""Log-mel spectrograms: the parameters, the filters and the transform.

The definitions are those of librosa and of the feature extractors in transformers, which published
sound encoders were trained with. Whisper's input is ``MelOptions.whisper()``, CLAP's
``MelOptions.clap()``.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from typing import Any, Final, Self

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from clipkit.errors import ConfigError, check_at_least, check_choice, check_range
from clipkit.suggestions import did_you_mean

__all__ = ["MelOptions", "hz_to_mel", "log_mel", "mel_filters", "mel_to_hz"]

Spectrogram = Float[Tensor, "num_mels num_frames"]
"""Logarithm of the energy by mel band and time."""
Wave = Float32[np.ndarray, " length"]
"""Amplitudes of one channel, -1 to 1 in a file of integers."""

UNITS: Final = {"decibel": 10.0, "log10": 1.0, "natural": math.log(10.0)}
"""Size of a factor of ten in energy, by unit of the spectrogram."""
MEL_SCALES: Final = ("htk", "slaney")
CROPS: Final = {"start": 0.0, "centre": 0.5}
"""Place of a crop without random numbers, by name."""
PADDINGS: Final = ("repeat", "repeat-zero", "zero")
PIECE: Final = {"crop": "centre", "padding": "repeat"}
"""Options of the piece of a sound, with their defaults."""
_SLANEY_BREAK_HZ: Final = 1000.0  # linear below, logarithmic above
_SLANEY_HZ_PER_MEL: Final = 200.0 / 3.0
_SLANEY_MELS_PER_LOG: Final = 27.0 / math.log(6.4)
_LARGEST_WINDOW: Final = 2**16
_LARGEST_RATE: Final = 192_000
_MOST_MELS: Final = 2**11
_MOST_FRAMES: Final = 2**17


@dataclass(frozen=True)
class MelOptions:
    """Parameters of a log-mel spectrogram.

    They belong to an encoder of sounds as much as its weights: ``config()`` is stored with them.

    Args:
        sample_rate: Rate to which sounds are resampled, in samples per second.
        num_mels: Number of mel bands.
        window: Length of the Hann window and of the Fourier transform, in samples.
        hop: Distance between two frames, in samples.
        f_min: Lower edge of the first band, in Hz.
        f_max: Upper edge of the last band, in Hz; at most half of the sample rate.
        num_frames: Number of frames of a spectrogram; longer sounds are cropped, shorter ones
            padded.
        mel_scale: ``"htk"`` (2595 log10(1 + f/700)) or ``"slaney"`` (linear up to 1 kHz).
        equal_area: Whether every band has the same area, as in librosa, or the same peak of 1.
        unit: ``"decibel"``, ``"log10"`` or ``"natural"``: logarithm of the energy.
        log_floor: Smallest energy before the logarithm.
        dynamic_range: Largest distance below the loudest value, in ``unit``; None for any.
        crop: Which piece of a longer sound evaluation uses: ``"centre"`` or ``"start"``.
        padding: How a shorter sound is filled up: ``"repeat"`` repeats it to the end,
            ``"repeat-zero"`` as often as it fits completely, ``"zero"`` adds silence.

    Raises:
        ConfigError: If the values contradict each other or are out of range.

    Examples:
        >>> mel = MelOptions(sample_rate=16000, hop=160, f_max=8000, num_frames=500)
        >>> mel.seconds, MelOptions.from_config(mel.config()) == mel
        (5.0, True)
    """

    # Not slotted: jsonargparse reads the defaults of a nested group from an instance's __dict__.
    sample_rate: int = 32_000
    num_mels: int = 64
    window: int = 1024
    hop: int = 320
    f_min: float = 50.0
    f_max: float = 14_000.0
    num_frames: int = 500
    mel_scale: str = "slaney"
    equal_area: bool = True
    unit: str = "decibel"
    log_floor: float = 1e-10
    dynamic_range: float | None = None
    crop: str = PIECE["crop"]
    padding: str = PIECE["padding"]

    def __post_init__(self) -> None:
        check_range("mel.sample_rate", self.sample_rate, 1, _LARGEST_RATE)
        check_range("mel.num_mels", self.num_mels, 1, _MOST_MELS)
        check_range("mel.window", self.window, 2, _LARGEST_WINDOW)
        check_range("mel.hop", self.hop, 1, self.window)
        check_range("mel.f_max", self.f_max, 0.0, self.sample_rate / 2)
        check_range("mel.num_frames", self.num_frames, 1, _MOST_FRAMES)
        check_choice("mel.mel_scale", self.mel_scale, MEL_SCALES)
        check_choice("mel.unit", self.unit, UNITS)
        check_choice("mel.crop", self.crop, CROPS)
        check_choice("mel.padding", self.padding, PADDINGS)
        if not 0.0 <= self.f_min < self.f_max:
            raise ConfigError(
                f"mel.f_min: expected 0 to below f_max={self.f_max}, got {self.f_min}"
            )
        if not 0.0 < self.log_floor < math.inf:
            raise ConfigError(f"mel.log_floor: expected a number above 0, got {self.log_floor}")
        if self.length <= self.window // 2:
            raise ConfigError(
                f"mel.num_frames: expected more than half a window ({self.window} samples), got "
                f"{self.num_frames} frames of {self.hop} samples"
            )
        check_at_least("mel.dynamic_range", self.dynamic_range, 0.0)
        self._check_bands()

    def _check_bands(self) -> None:
        """Refuse bands that contain no frequency of the Fourier transform."""
        empty = np.flatnonzero(mel_filters(self).max(0) <= 0.0)
        if len(empty):
            raise ConfigError(
                f"mel.num_mels: {len(empty)} of {self.num_mels} bands contain none of the "
                f"{self.window // 2 + 1} frequencies, such as band {empty[0]}; use fewer bands or "
                f"a longer window"
            )

    @classmethod
    def whisper(cls, num_mels: int = 80) -> Self:
        """Return the input of Whisper: 30 seconds at 16 kHz; large-v3 has 128 bands.

        Its encoder expects these values plus 4, divided by 4.
        """
        return cls(
            sample_rate=16_000,
            num_mels=num_mels,
            window=400,
            hop=160,
            f_min=0.0,
            f_max=8000.0,
            num_frames=3000,
            unit="log10",
            dynamic_range=8.0,
        )

    @classmethod
    def clap(cls) -> Self:
        """Return the input of CLAP's HTSAT: 10 seconds at 48 kHz, 1001 frames, ``repeat-zero``."""
        return cls(sample_rate=48_000, hop=480, num_frames=1001, padding="repeat-zero")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Self:
        """Reverse ``config``.

        Raises:
            ConfigError: If there is an unknown name, or a value cannot be used.
        """
        known = [field.name for field in fields(cls)]
        for name in config:
            if name not in known:
                raise ConfigError(
                    f"mel: no option {name!r}{did_you_mean(name, known)}; got {sorted(config)}"
                )
        try:
            return cls(**config)
        except TypeError as error:
            raise ConfigError(f"mel: expected numbers and names, got {config}: {error}") from error

    def config(self) -> dict[str, Any]:
        """Return all options in JSON types; crop and padding only if they are no defaults.

        Encoders without the two are centre and repeat, and keep the hashes that embeddings of
        theirs have.
        """
        return {n: v for n, v in asdict(self).items() if n not in PIECE or v != PIECE[n]}

    def named_values(self) -> dict[str, Any]:
        """Return all options by their names in messages, such as ``mel.sample_rate``."""
        return {f"mel.{name}": value for name, value in asdict(self).items()}

    def same_values(self, other: MelOptions) -> bool:
        """Return whether values mean the same, whichever piece of a sound they are of."""
        return replace(other, crop=self.crop, padding=self.padding) == self

    @property
    def length(self) -> int:
        """Samples of a channel that a spectrogram is computed from."""
        return self.num_frames * self.hop

    @property
    def seconds(self) -> float:
        """Duration of a spectrogram."""
        return self.length / self.sample_rate

    @property
    def floor(self) -> float:
        """Value of silence in the unit of the spectrogram."""
        return UNITS[self.unit] * math.log10(self.log_floor)


def hz_to_mel(hz: Float64[np.ndarray, " points"], scale: str) -> Float64[np.ndarray, " points"]:
    """Convert frequencies to mels.

    Sources: O'Shaughnessy 1987, as in HTK; Slaney's Auditory Toolbox 1998.

    Examples:
        >>> [round(float(hz_to_mel(np.array([1000.0]), scale)[0]), 3) for scale in MEL_SCALES]
        [999.986, 15.0]
    """
    if scale == "htk":
        return np.asarray(2595.0 * np.log10(1.0 + hz / 700.0))
    above = np.maximum(hz, _SLANEY_BREAK_HZ)
    logarithmic = _SLANEY_MELS_PER_LOG * np.log(above / _SLANEY_BREAK_HZ)
    return np.asarray(np.minimum(hz, _SLANEY_BREAK_HZ) / _SLANEY_HZ_PER_MEL + logarithmic)


def mel_to_hz(mels: Float64[np.ndarray, " points"], scale: str) -> Float64[np.ndarray, " points"]:
    """Reverse ``hz_to_mel``."""
    if scale == "htk":
        return np.asarray(700.0 * (10.0 ** (mels / 2595.0) - 1.0))
    break_mel = _SLANEY_BREAK_HZ / _SLANEY_HZ_PER_MEL
    above = np.exp(np.maximum(mels - break_mel, 0.0) / _SLANEY_MELS_PER_LOG)
    return np.asarray(np.minimum(mels, break_mel) * _SLANEY_HZ_PER_MEL * above)


def mel_filters(mel: MelOptions) -> Float64[np.ndarray, "frequencies num_mels"]:
    """Return the weight of each frequency of the Fourier transform in each band.

    A band is a triangle in Hz between three of ``num_mels + 2`` edges with equal distances in mels.

    Args:
        mel: Parameters of the spectrogram.
    """
    frequencies = np.arange(mel.window // 2 + 1) * (mel.sample_rate / mel.window)
    ends = hz_to_mel(np.array([mel.f_min, mel.f_max]), mel.mel_scale)
    edges = mel_to_hz(np.linspace(ends[0], ends[1], mel.num_mels + 2), mel.mel_scale)
    widths = np.diff(edges)
    distances = edges[None, :] - frequencies[:, None]
    rising = -distances[:, :-2] / widths[:-1]
    falling = distances[:, 2:] / widths[1:]
    weights = np.maximum(0.0, np.minimum(rising, falling))
    if mel.equal_area:
        weights *= 2.0 / (edges[2:] - edges[:-2])
    return np.asarray(weights)


def log_mel(wave: Wave, mel: MelOptions) -> Spectrogram:
    """Return the log-mel spectrogram of one channel.

    Frame ``t`` is centred on sample ``t * hop``; the ends are mirrored.

    Args:
        wave: Amplitudes at ``mel.sample_rate``.
        mel: Parameters of the spectrogram.

    Raises:
        ConfigError: If the wave does not have ``mel.length`` samples.

    Examples:
        >>> mel = MelOptions(sample_rate=16000, f_max=8000, num_frames=100)
        >>> log_mel(np.zeros(mel.length, dtype=np.float32), mel).shape
        torch.Size([64, 100])
    """
    if len(wave) != mel.length:
        raise ConfigError(f"log_mel: expected {mel.length} samples (mel.length), got {len(wave)}")
    window, filters = _constants(mel)
    spectrum = torch.stft(
        torch.from_numpy(wave),
        mel.window,
        mel.hop,
        window=window,
        center=True,
        pad_mode="reflect",
        return_complex=True,
    )[:, : mel.num_frames]
    # A fifth of the time of torch.view_as_real(spectrum).square().sum(-1).
    energy = spectrum.real.square() + spectrum.imag.square()
    levels = (filters @ energy).clamp_(min=mel.log_floor).log10_().mul_(UNITS[mel.unit])
    if mel.dynamic_range is not None:
        levels = levels.clamp_(min=levels.max().item() - mel.dynamic_range)
    return levels


@lru_cache(maxsize=8)
def _constants(mel: MelOptions) -> tuple[Tensor, Tensor]:
    """Return the window and the transposed filters as tensors."""
    filters = torch.from_numpy(np.ascontiguousarray(mel_filters(mel).T, dtype=np.float32))
    return torch.hann_window(mel.window, periodic=True), filters
