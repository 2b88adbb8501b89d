"""Which piece of a sound is used, and how short sounds are filled up: pure functions."""

from __future__ import annotations

import math
from typing import Final

import numpy as np

from clipkit.data.audio.decode import Span
from clipkit.data.audio.formats import require_package
from clipkit.mel import Wave

_RESAMPLING: Final = "HQ"


def piece_at(place: float, length: int, wanted: int) -> Span:
    """Return a piece of a sound, or the complete sound if it is not longer.

    Args:
        place: Where the piece is: 0 at the start, 0.5 in the centre, below 1 at the end.
        length: Length of the sound, in samples.
        wanted: Length of the piece, in samples.

    Examples:
        >>> piece_at(0.5, 1000, 400), piece_at(0.5, 300, 400)
        (Span(start=300, length=400), Span(start=0, length=300))
    """
    if length <= wanted:
        return Span(0, length)
    return Span(int(place * (length - wanted + 1)), wanted)


def source_length(length: int, sample_rate: int, source_rate: int) -> int:
    """Return how many samples of a source give ``length`` samples at another rate.

    Examples:
        >>> source_length(16000, sample_rate=16000, source_rate=44100)
        44100
    """
    return math.ceil(length * source_rate / sample_rate)


def resampled(wave: Wave, source_rate: int, sample_rate: int) -> Wave:
    """Change the sample rate, with a band limit at half of the lower rate.

    Args:
        wave: Amplitudes.
        source_rate: Samples per second of ``wave``.
        sample_rate: Samples per second of the result.

    Raises:
        ConfigError: If soxr is not installed.
    """
    if source_rate == sample_rate:
        return wave
    require_package("soxr")
    import soxr

    return np.asarray(soxr.resample(wave, source_rate, sample_rate, quality=_RESAMPLING))


def padded(wave: Wave, length: int, padding: str) -> Wave:
    """Fill up a short sound at its end, or remove the end of a longer one.

    Args:
        wave: Amplitudes.
        length: Samples of the result.
        padding: ``"repeat"`` repeats the sound to the end, ``"repeat-zero"`` as often as it fits
            completely, followed by silence, ``"zero"`` adds silence.

    Examples:
        >>> padded(np.ones(2, dtype=np.float32), 5, "repeat-zero").tolist()
        [1.0, 1.0, 1.0, 1.0, 0.0]
    """
    if len(wave) >= length:
        return wave[:length]
    if len(wave) and padding != "zero":
        repeats = length // len(wave) if padding == "repeat-zero" else -(-length // len(wave))
        wave = np.tile(wave, repeats)[:length]
    return np.concatenate([wave, np.zeros(length - len(wave), dtype=np.float32)])
