"""Decode one span of a sound file to one channel, and not more than is needed.

The span is chosen from the header, and the file is read from there on. Memory follows from the span
and the limits, never from a header alone.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, NamedTuple, final

import numpy as np
from jaxtyping import Float32

from clipkit.data.audio.formats import (
    SoundLimits,
    check_sound_bytes,
    check_sound_size,
    require_package,
    sound_faults,
)
from clipkit.errors import SampleError
from clipkit.mel import Wave

_VALUES_AT_ONCE: Final = 2**20
"""Samples of all channels that are decoded at once; 4 MiB."""
_UNKNOWN_LENGTH: Final = 2**62
"""libsndfile's length of a file whose header has none is above this."""
_FEW_BYTES: Final = 8
"""Changes the length that libmpg123 guesses by some samples."""
_ENDLESS: Final = 2**40
"""Bytes of a file whose guessed length is above that of any file within the limits."""
_LARGEST_AMPLITUDE: Final = 2.0**31
"""Amplitude of integers of 32 bits that were stored as floats without scaling."""


class Span(NamedTuple):
    """A part of a sound, in samples per channel."""

    start: int  # first sample
    length: int  # number of samples


SpanChooser = Callable[[int, int], Span]
"""Chooses the span from the length in samples per channel, and the sample rate."""


@dataclass(frozen=True, slots=True)
class SoundInfo:
    """Header of a sound file.

    Args:
        kind: ``"wav"``, ``"flac"``, ``"ogg"`` or ``"mp3"``.
        coding: libsndfile's name of the coding, such as ``"PCM_24"`` or ``"VORBIS"``.
        sample_rate: Samples per second and channel.
        num_channels: Number of channels.
        length: Samples of each channel; None if the header does not say.
    """

    kind: str
    coding: str
    sample_rate: int
    num_channels: int
    length: int | None

    @property
    def seconds(self) -> float | None:
        """Duration; None if the header does not say."""
        return None if self.length is None else self.length / self.sample_rate


def complete(length: int, sample_rate: int) -> Span:  # noqa: ARG001 (a SpanChooser)
    """Choose the complete sound."""
    return Span(0, length)


def sound_info(data: bytes, limits: SoundLimits = SoundLimits()) -> SoundInfo:
    """Read the header of a sound file.

    Args:
        data: Bytes of the file.
        limits: Largest sounds that are used.

    Raises:
        SampleError: If the bytes are no sound, or its header is damaged or above a limit.
        ConfigError: If soundfile is not installed.

    Examples:
        >>> info = sound_info(Path("bark.wav").read_bytes())
        >>> info.coding, info.sample_rate, info.num_channels, info.seconds
        ('PCM_16', 8000, 1, 0.5)
    """
    with _opened(data, limits) as (_, info):
        return info


def decode_sound(
    data: bytes, choose: SpanChooser = complete, limits: SoundLimits = SoundLimits()
) -> tuple[Wave, int]:
    """Decode a span of a sound file, as the mean of its channels.

    Args:
        data: Bytes of the file.
        choose: Chooses the span from the length and the sample rate.
        limits: Largest sounds that are used.

    Returns:
        Amplitudes, and samples per second.

    Raises:
        SampleError: If the bytes are no sound, damaged, truncated, empty or too large.
        ConfigError: If soundfile is not installed.

    Examples:
        >>> wave, sample_rate = decode_sound(Path("bark.wav").read_bytes())
        >>> wave.shape, sample_rate
        ((4000,), 8000)
    """
    with _opened(data, limits) as (file, info), sound_faults(f"{info.kind} sound is damaged"):
        wave = _known(file, info, choose, limits) if info.length else _unknown(file, info, limits)
        if info.length is None:
            start, length = choose(len(wave), info.sample_rate)
            wave = wave[start : start + length]
        return wave, info.sample_rate


def check_sound(data: bytes, limits: SoundLimits = SoundLimits()) -> SoundInfo:
    """Decode a complete sound file to find damage, without keeping it in memory.

    Args:
        data: Bytes of the file.
        limits: Largest sounds that are used; ``max_samples`` does not matter.

    Returns:
        The header.

    Raises:
        SampleError: If the bytes are no sound, damaged, truncated, empty or too large.
        ConfigError: If soundfile is not installed.
    """
    with _opened(data, limits) as (file, info), sound_faults(f"{info.kind} sound is damaged"):
        most = int(limits.max_seconds * info.sample_rate)
        num_read = sum(len(block) for block in _blocks(file, info, info.length or most + 1))
        if info.length is None and num_read > most:
            raise _too_long(info, most, limits)
        _check_complete(info, 0, num_read, info.length)
        return info


def check_amplitudes(wave: Wave, what: str) -> None:
    """Refuse amplitudes that no sound has, such as NaN; the error begins with ``what``.

    Raises:
        SampleError: If there are such amplitudes.
    """
    if len(wave) and not np.abs(wave).max() <= _LARGEST_AMPLITUDE:  # also if it is NaN
        raise SampleError(f"{what} has amplitudes that are NaN, infinite or huge")


@contextmanager
def _opened(data: bytes, limits: SoundLimits) -> Iterator[tuple[Any, SoundInfo]]:
    """Open a sound whose header is within the limits."""
    kind = check_sound_bytes(data, limits)
    reader = _reader_class()
    with sound_faults(f"{kind} header cannot be read"):
        file, length = _file_and_length(reader, data, kind)
    with file:
        info = SoundInfo(kind, file.subtype, file.samplerate, file.channels, length)
        check_sound_size(info.sample_rate, info.num_channels, length, limits)
        yield file, info


def _file_and_length(reader: Any, data: bytes, kind: str) -> tuple[Any, int | None]:
    """Return a reader, and the samples of each channel; None if the header does not say.

    Without a count in the first frame of an MP3, libmpg123 guesses from the size of the file, which
    includes tags, and of the first frames. libsndfile reads no more than that. A guess is known by
    following the size of the file; the sound is then opened as one that is never too short.
    """
    file = reader(io.BytesIO(data))
    if kind == "mp3":
        with reader(_Lengthened(data, _FEW_BYTES)) as longer:
            is_guess = longer.frames != file.frames
        if is_guess:
            file.close()
            return reader(_Lengthened(data, _ENDLESS)), None
    return file, None if file.frames > _UNKNOWN_LENGTH else int(file.frames)


@final
class _Lengthened(io.BytesIO):
    """A file that seems to have more bytes than can be read; the last ones are found as before."""

    def __init__(self, data: bytes, more: int) -> None:
        super().__init__(data)
        self._more = more

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        at = super().seek(offset, whence)
        is_end = whence == io.SEEK_END and offset == 0
        return super().seek(at + self._more) if is_end else at


@cache
def _reader_class() -> Any:
    """Return soundfile's reader without a seek after each read.

    A seek to the end fails if the header has another length, or none, and takes time otherwise.
    """
    require_package("soundfile")
    import soundfile

    class Reader(soundfile.SoundFile):  # type: ignore[misc]
        def seekable(self) -> bool:
            return False

    return Reader


def _known(file: Any, info: SoundInfo, choose: SpanChooser, limits: SoundLimits) -> Wave:
    """Decode the span of a sound whose header has a length."""
    assert info.length is not None
    start, length = choose(info.length, info.sample_rate)
    if length * info.num_channels > limits.max_samples:
        raise SampleError(
            f"{length} samples of {info.num_channels} channels are above the limit of "
            f"{limits.max_samples} (max_samples)"
        )
    if start > 0:
        file.seek(start)
    blocks = list(_blocks(file, info, length))
    num_read = sum(map(len, blocks))
    _check_complete(info, start, num_read, start + length)
    return np.concatenate(blocks)


def _unknown(file: Any, info: SoundInfo, limits: SoundLimits) -> Wave:
    """Decode a complete sound whose header has no length, such as a FLAC that was streamed."""
    most = int(min(limits.max_samples // info.num_channels, limits.max_seconds * info.sample_rate))
    blocks = list(_blocks(file, info, most + 1))
    num_read = sum(map(len, blocks))
    if num_read > most:
        raise _too_long(info, most, limits)
    _check_complete(info, 0, num_read, None)
    return np.concatenate(blocks)


def _too_long(info: SoundInfo, most: int, limits: SoundLimits) -> SampleError:
    return SampleError(
        f"sound has more than {most} samples of {info.num_channels} channels, which is above "
        f"the limit (max_seconds={limits.max_seconds:g}, max_samples={limits.max_samples})"
    )


def _blocks(file: Any, info: SoundInfo, length: int) -> Iterator[Float32[np.ndarray, " block"]]:
    """Yield up to ``length`` samples in blocks, as the mean of the channels."""
    size = _VALUES_AT_ONCE // info.num_channels
    while length > 0:
        values = file.read(min(size, length), dtype="float32", always_2d=True)
        if not len(values):
            return
        with np.errstate(invalid="ignore"):  # infinite values of opposite sign
            mono = values[:, 0] if info.num_channels == 1 else values.mean(axis=1)
        check_amplitudes(mono, f"{info.kind} sound")
        yield mono
        length -= len(mono)


def _check_complete(info: SoundInfo, start: int, num_read: int, end: int | None) -> None:
    if num_read < 1 and end is None:
        raise SampleError("sound has no samples")
    if end is not None and start + num_read < end:
        raise SampleError(
            f"{info.kind} sound is truncated: expected {info.length} samples by its header, only "
            f"{start + num_read} can be decoded"
        )
