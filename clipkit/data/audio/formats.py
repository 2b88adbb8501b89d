"""Which bytes are a sound, how large it may be, and errors that name what is wrong with it."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Final

from clipkit.errors import ConfigError, SampleError, check_at_least, check_range

SOUND_EXTENSIONS: Final = ("flac", "wav", "ogg", "opus", "mp3")
"""Extensions of the members that are sounds, in the order in which they are preferred."""
SOUND_SUFFIXES: Final = frozenset(f".{extension}" for extension in SOUND_EXTENSIONS)
LEAST_HEADER_BYTES: Final = 16
"""Enough bytes to recognise a sound by its start."""

_MOST_CHANNELS: Final = 64
_LARGEST_RATE: Final = 768_000
_UNKNOWN_SIZE: Final = (0, 0x7FFF_FFFF, 0xFFFF_FFFF)
"""Sizes of the samples in a WAV file whose writer could not return to its header."""
_PAGE_HEADER_BYTES: Final = 27


@dataclass(frozen=True)
class SoundLimits:
    """Largest sounds that are used; larger ones are refused before they are decoded.

    Args:
        max_bytes: Bytes of a file.
        max_seconds: Duration of a file.
        max_samples: Samples of all channels of the part that is decoded at once.
        max_channels: Number of channels, of which the mean is used.
        max_sample_rate: Samples per second and channel.

    Raises:
        ConfigError: If a limit is out of range.

    Examples:
        >>> SoundLimits(max_seconds=60).max_channels
        8
    """

    # Not slotted: jsonargparse reads the defaults of a nested group from an instance's __dict__.
    max_bytes: int = 2**28
    max_seconds: float = 3600.0
    max_samples: int = 2**26
    max_channels: int = 8
    max_sample_rate: int = 192_000

    def __post_init__(self) -> None:
        check_at_least("limits.max_bytes", self.max_bytes, 1)
        check_at_least("limits.max_seconds", self.max_seconds, 0.0)
        check_at_least("limits.max_samples", self.max_samples, 1)
        check_range("limits.max_channels", self.max_channels, 1, _MOST_CHANNELS)
        check_range("limits.max_sample_rate", self.max_sample_rate, 1, _LARGEST_RATE)


def sound_extension(members: Collection[str]) -> str | None:
    """Return the first of ``SOUND_EXTENSIONS`` that a sample has as a member; None without one."""
    return next((name for name in SOUND_EXTENSIONS if name in members), None)


def sound_kind(start: bytes) -> str | None:
    """Recognise the format of a sound by its first bytes.

    Args:
        start: The first ``LEAST_HEADER_BYTES`` bytes of the file or more.

    Returns:
        ``"wav"``, ``"flac"``, ``"ogg"`` or ``"mp3"``; None if it is none of them.

    Examples:
        >>> sound_kind(b"fLaC" + bytes(12)), sound_kind(b"hello")
        ('flac', None)
    """
    if start[:4] in (b"RIFF", b"RF64") and start[8:12] == b"WAVE":
        return "wav"
    if start.startswith(b"fLaC"):
        return "flac"
    if start.startswith(b"OggS"):
        return "ogg"
    # Eleven bits that are set, and layer III.
    is_frame = len(start) > 1 and start[0] == 0xFF and start[1] & 0xE6 == 0xE2
    return "mp3" if is_frame or start.startswith(b"ID3") else None


def check_sound_bytes(data: bytes, limits: SoundLimits) -> str:
    """Return the format of a file, or refuse it by its bytes alone.

    Raises:
        SampleError: If it is empty, too large, no sound, or has an end that is not in its bytes.
    """
    if not data:
        raise SampleError("sound is empty (0 bytes)")
    if len(data) > limits.max_bytes:
        raise SampleError(
            f"sound of {len(data)} bytes is above the limit of {limits.max_bytes} (max_bytes)"
        )
    kind = sound_kind(data)
    if kind is None:
        raise SampleError(
            f"not a sound of a known format (wav, flac, ogg, mp3); starts {data[:8]!r}"
        )
    missing = _missing_bytes(data, kind)
    if missing > 0:
        raise SampleError(f"{kind} sound is truncated: the last {missing} bytes are missing")
    return kind


def check_sound_size(
    sample_rate: int, num_channels: int, length: int | None, limits: SoundLimits
) -> None:
    """Refuse a sound by what its header says.

    Args:
        sample_rate: Samples per second and channel.
        num_channels: Number of channels.
        length: Samples of each channel; None if the header does not say.
        limits: Largest sounds.

    Raises:
        SampleError: If it has no samples, or is above a limit.
    """
    if num_channels > limits.max_channels:
        raise SampleError(
            f"sound of {num_channels} channels is above the limit of {limits.max_channels} "
            f"(max_channels)"
        )
    if not 1 <= sample_rate <= limits.max_sample_rate:
        raise SampleError(
            f"sound of {sample_rate} samples per second: expected 1 to {limits.max_sample_rate} "
            f"(max_sample_rate)"
        )
    if length is None:
        return
    if length < 1:
        raise SampleError("sound has no samples")
    if length > limits.max_seconds * sample_rate:
        raise SampleError(
            f"sound of {length / sample_rate:.1f} seconds by its header is above the limit of "
            f"{limits.max_seconds:g} (max_seconds)"
        )


@contextmanager
def sound_faults(what: str) -> Iterator[None]:
    """Convert errors of libsndfile for damaged data to a ``SampleError`` that starts with ``what``.

    ``MemoryError`` is not converted, because no sample causes it.
    """
    try:
        yield
    except SampleError:
        raise
    except (RuntimeError, ValueError, TypeError, OverflowError, AssertionError) as error:
        # Without the prefix of the message: it has an address in memory, and reasons must be equal
        # on all ranks.
        reason = getattr(error, "error_string", None) or error or type(error).__name__
        raise SampleError(f"{what}: {reason}") from error


def require_package(name: str) -> None:
    """Import a package of the extra ``audio``, to say how to install it.

    Raises:
        ConfigError: If the package, or a library of the system that it needs, is not installed.
    """
    try:
        import_module(name)
    except (ImportError, OSError) as error:
        raise ConfigError(
            f"sounds: need {name}, which cannot be imported ({error}); pip install 'clipkit[audio]'"
        ) from error


def _missing_bytes(data: bytes, kind: str) -> int:
    """Return how many bytes a file ends too early by its own lengths; 0 if that is unknown."""
    if kind == "wav":
        return _missing_of_wav(data)
    return _missing_of_ogg(data) if kind == "ogg" else 0


def _missing_of_wav(data: bytes) -> int:
    position = 12
    while data[:4] == b"RIFF" and position + 8 <= len(data):
        size = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"data":
            return 0 if size in _UNKNOWN_SIZE else max(0, position + 8 + size - len(data))
        position += 8 + size + size % 2
    return 0


def _missing_of_ogg(data: bytes) -> int:
    """Return the missing bytes of the last page."""
    page = data.rfind(b"OggS")
    if len(data) < page + _PAGE_HEADER_BYTES:
        return page + _PAGE_HEADER_BYTES - len(data)
    end = page + _PAGE_HEADER_BYTES + data[page + _PAGE_HEADER_BYTES - 1]
    return max(0, end + sum(data[page + _PAGE_HEADER_BYTES : end]) - len(data))
