"""Short copies of sounds, which a page can contain and every browser plays."""

from __future__ import annotations

import io
from typing import Any, Final

from clipkit.data.audio.decode import Span, decode_sound
from clipkit.data.audio.formats import SoundLimits, require_package, sound_faults
from clipkit.data.audio.pieces import piece_at, resampled
from clipkit.mel import Wave

_RATES: Final = {"MP3": 24_000, "WAV": 8_000}
_MEDIA_TYPES: Final = {"MP3": "audio/mpeg", "WAV": "audio/wav"}
_ENCODING: Final[dict[str, dict[str, Any]]] = {
    "MP3": {"bitrate_mode": "VARIABLE", "compression_level": 0.8},  # about 40 kbit/s
    "WAV": {"subtype": "PCM_16"},
}


def sound_preview(
    data: bytes,
    seconds: float = 10.0,
    place: float = 0.0,
    limits: SoundLimits = SoundLimits(),
    max_bytes: int | None = None,
) -> tuple[bytes, str]:
    r"""Return a piece of a sound file as a small file of one channel, and its media type.

    Args:
        data: Bytes of the file.
        seconds: Largest duration of the copy.
        place: Where the piece is in a longer sound: 0 at the start, 1 at the end.
        limits: Largest sounds that are used.
        max_bytes: Largest size of the copy; a larger one is shortened. None for any.

    Raises:
        SampleError: If the bytes are no sound, damaged, truncated, empty or too large.
        ConfigError: If the packages for sounds are not installed.

    Examples:
        >>> copy, media_type = sound_preview(Path("bark.wav").read_bytes())
        >>> copy[:1], media_type
        (b'\xff', 'audio/mpeg')
    """

    def piece(length: int, sample_rate: int) -> Span:
        return piece_at(place, length, round(seconds * sample_rate))

    wave, sample_rate = decode_sound(data, piece, limits)
    return encoded_clip(wave, sample_rate, max_bytes)


def encoded_clip(wave: Wave, sample_rate: int, max_bytes: int | None = None) -> tuple[bytes, str]:
    """Encode a sound as MP3, or as WAV where libsndfile cannot; return it and its media type.

    Args:
        wave: Amplitudes of one channel.
        sample_rate: Samples per second.
        max_bytes: Largest size; a larger sound is halved until it fits. None for any.

    Raises:
        SampleError: If it cannot be encoded.
        ConfigError: If the packages for sounds are not installed.
    """
    for package in ("soundfile", "soxr"):
        require_package(package)
    import soundfile

    kind = "MP3" if "MP3" in soundfile.available_formats() else "WAV"
    wave = resampled(wave, sample_rate, _RATES[kind]).clip(-1, 1)
    while True:
        file = io.BytesIO()
        with sound_faults("sound cannot be copied"):
            soundfile.write(file, wave, _RATES[kind], format=kind, **_ENCODING[kind])
        if max_bytes is None or file.tell() <= max_bytes or not len(wave):
            return file.getvalue(), _MEDIA_TYPES[kind]
        wave = wave[: len(wave) // 2]
