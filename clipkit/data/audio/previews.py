"""Short copies of sounds, which a page can contain and every browser plays."""

from __future__ import annotations

import io
from typing import Final

from clipkit.data.audio.decode import Span, decode_sound
from clipkit.data.audio.formats import SoundLimits, require_package, sound_faults
from clipkit.data.audio.pieces import piece_at, resampled

MEDIA_TYPE: Final = "audio/mpeg"
_SAMPLE_RATE: Final = 24_000
_COMPRESSION: Final = 0.8
"""Of libsndfile's scale from 0 to 1: about 40 kbit/s."""


def sound_preview(
    data: bytes, seconds: float = 10.0, place: float = 0.0, limits: SoundLimits = SoundLimits()
) -> bytes:
    r"""Return a piece of a sound file as an MP3 of one channel.

    Args:
        data: Bytes of the file.
        seconds: Largest duration of the copy.
        place: Where the piece is in a longer sound: 0 at the start, 1 at the end.
        limits: Largest sounds that are used.

    Raises:
        SampleError: If the bytes are no sound, damaged, truncated, empty or too large.
        ConfigError: If the packages for sounds are not installed.

    Examples:
        >>> sound_preview(Path("bark.wav").read_bytes())[:1]
        b'\xff'
    """
    for package in ("soundfile", "soxr"):
        require_package(package)
    import soundfile

    def piece(length: int, sample_rate: int) -> Span:
        return piece_at(place, length, round(seconds * sample_rate))

    wave, sample_rate = decode_sound(data, piece, limits)
    out = io.BytesIO()
    with sound_faults("sound cannot be copied"):
        soundfile.write(
            out,
            resampled(wave, sample_rate, _SAMPLE_RATE).clip(-1, 1),
            _SAMPLE_RATE,
            format="MP3",
            bitrate_mode="VARIABLE",
            compression_level=_COMPRESSION,
        )
    return out.getvalue()
