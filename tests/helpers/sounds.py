"""Sound files that the tests make themselves."""

from __future__ import annotations

import io
import struct

import numpy as np


def tone(
    seconds: float = 0.5,
    sample_rate: int = 8000,
    hz: float = 440.0,
    channels: int = 1,
    seed: int = 0,
) -> np.ndarray:
    """A tone with some noise, [length] or [length channels], each channel with another phase."""
    time = np.arange(round(seconds * sample_rate)) / sample_rate
    rng = np.random.default_rng(seed)
    columns = [
        0.4 * np.sin(2 * np.pi * hz * time + channel) + 0.05 * rng.standard_normal(len(time))
        for channel in range(channels)
    ]
    return np.stack(columns, axis=1)[:, 0] if channels == 1 else np.stack(columns, axis=1)


def sound_bytes(
    seconds: float = 0.5,
    sample_rate: int = 8000,
    hz: float = 440.0,
    channels: int = 1,
    seed: int = 0,
) -> bytes:
    """A WAV file of 16 bits, written without a library."""
    wave = tone(seconds, sample_rate, hz, channels, seed)
    content = (wave * 32767).astype("<i2").tobytes()
    return wav_bytes(content, sample_rate, channels, bits=16)


def wav_bytes(
    content: bytes,
    sample_rate: int,
    channels: int,
    bits: int,
    size: int | None = None,
    code: int = 1,
) -> bytes:
    """A WAV file around samples; ``size`` is what its header says of them, ``code`` 3 is float."""
    size = len(content) if size is None else size
    frame = channels * bits // 8 % 2**16
    header = struct.pack(
        "<4sIHHIIHH",
        b"fmt ",
        16,
        code,
        channels,
        sample_rate,
        sample_rate * frame % 2**32,
        frame,
        bits,
    )
    body = b"WAVE" + header + b"data" + struct.pack("<I", size % 2**32) + content
    return b"RIFF" + struct.pack("<I", len(body)) + body


def encoded(
    wave: np.ndarray,
    sample_rate: int = 8000,
    kind: str = "FLAC",
    coding: str = "",
    bitrate_mode: str | None = None,
) -> bytes:
    """The file that libsndfile makes of a wave."""
    import soundfile

    file = io.BytesIO()
    mode = {"bitrate_mode": bitrate_mode, "compression_level": 0.5} if bitrate_mode else {}
    soundfile.write(file, wave, sample_rate, format=kind, subtype=coding or None, **mode)
    return file.getvalue()


def without_count(data: bytes) -> bytes:
    """An MP3 whose first frame is silence, where it had the number of frames."""
    at = max(data.find(b"Info", 0, 100), data.find(b"Xing", 0, 100))
    assert at > 0
    return data[:at] + bytes(4) + data[at + 4 :]


def id3_tag(size: int) -> bytes:
    """An ID3v2 tag with so many bytes of padding; 7 bits of its size in each byte."""
    return b"ID3\x04\0\0" + bytes(size >> shift & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)


def with_flac_length(data: bytes, length: int) -> bytes:
    """A FLAC whose header says that it has this many samples (36 bits; 0 for unknown)."""
    field = int.from_bytes(data[18:26], "big")
    return data[:18] + (field >> 36 << 36 | length).to_bytes(8, "big") + data[26:]
