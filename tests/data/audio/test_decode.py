"""Decoding sounds: every format, every kind of damage, headers that lie."""

from __future__ import annotations

import struct
import sys
from functools import cache

import numpy as np
import pytest

from clipkit.data.audio import decode
from clipkit.data.audio.decode import Span, check_sound, decode_sound, sound_info
from clipkit.data.audio.formats import SoundLimits, sound_extension, sound_kind
from clipkit.errors import ConfigError, SampleError
from tests.helpers.images import encode, photo
from tests.helpers.sounds import (
    encoded,
    id3_tag,
    sound_bytes,
    tone,
    wav_bytes,
    with_flac_length,
    without_count,
)

FLOAT = 3
CODINGS = [
    ("WAV", "PCM_16"), ("WAV", "PCM_24"), ("WAV", "PCM_32"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"),
    ("WAV", "PCM_U8"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"),
    ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip
LOSSY = {"VORBIS": 0.1, "OPUS": 0.2, "MPEG_LAYER_III": 0.2, "PCM_U8": 0.02}


@pytest.mark.parametrize(("kind", "coding"), CODINGS)
def test_formats(kind, coding):
    wave = tone(1.0, 24_000)
    data = encoded(wave, 24_000, kind, coding)
    info = sound_info(data)
    assert (info.kind, info.coding) == (kind.lower(), coding)
    assert (info.sample_rate, info.num_channels, info.length) == (24_000, 1, 24_000)
    assert info.seconds == 1.0
    decoded, rate = decode_sound(data)
    assert rate == 24_000
    assert decoded.dtype == np.float32
    difference = np.sqrt(np.mean((decoded - wave) ** 2))
    assert difference < LOSSY.get(coding, 1e-4)
    assert check_sound(data) == info


@pytest.mark.parametrize(("kind", "coding"), CODINGS)
def test_a_span_is_that_of_the_complete_sound(kind, coding):
    data = encoded(tone(2.0, 16_000, channels=2), 16_000, kind, coding)
    complete, _ = decode_sound(data)
    for start, length in ((0, 1), (0, 7000), (4321, 9000), (31_000, 1000)):
        span, _ = decode_sound(data, lambda *_, at=start, size=length: Span(at, size))
        # Opus predicts from what came before, and settles in a few milliseconds.
        assert span == pytest.approx(complete[start : start + length], abs=2e-2)


def test_channels_are_averaged():
    wave = tone(0.1, 8000, channels=8)
    for data in (sound_bytes(0.1, 8000, channels=8), encoded(wave, 8000)):
        assert sound_info(data).num_channels == 8
        assert decode_sound(data)[0] == pytest.approx(wave.mean(1), abs=1e-4)


def test_more_channels_than_allowed():
    data = sound_bytes(0.1, 8000, channels=9)
    with pytest.raises(SampleError, match=r"9 channels is above the limit of 8 \(max_channels\)"):
        decode_sound(data)
    assert len(decode_sound(data, limits=SoundLimits(max_channels=9))[0]) == 800


def test_192_khz_are_read_and_more_are_refused():
    assert decode_sound(sound_bytes(0.01, 192_000))[1] == 192_000
    with pytest.raises(SampleError, match="384000 samples per second: expected 1 to 192000"):
        decode_sound(sound_bytes(0.01, 384_000))


def test_long_sounds_are_refused_by_their_header(monkeypatch):
    data = sound_bytes(2.0)
    monkeypatch.setattr(decode, "_blocks", None)  # nothing is decoded
    with pytest.raises(SampleError, match=r"2.0 seconds by its header is above the limit of 1 "):
        decode_sound(data, limits=SoundLimits(max_seconds=1.0))
    with pytest.raises(SampleError, match=r"16000 samples of 1 channels are above .*max_samples"):
        decode_sound(data, limits=SoundLimits(max_samples=15_999))
    with pytest.raises(SampleError, match=rf"{len(data)} bytes is above the limit of 100 "):
        decode_sound(data, limits=SoundLimits(max_bytes=100))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", r"sound is empty \(0 bytes\)"),
        (b"x", "not a sound of a known format"),
        (b"hello, this is no sound", "starts b'hello, t'"),
        (encode(photo(), "JPEG"), "not a sound of a known format"),
        (encode(photo(), "WEBP"), "not a sound of a known format"),  # RIFF too
        (b"RIFF\x04\0\0\0WAVE", "wav header cannot be read"),
        (b"fLaC" + bytes(50), "flac header cannot be read"),
        (b"OggS" + bytes(50), "ogg header cannot be read"),
        (b"\xff\xfb" + bytes(50), "mp3 header cannot be read"),
        (b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(50), "mp3 header cannot be read"),
        (wav_bytes(b"", 8000, 1, 16), "sound has no samples"),
        (wav_bytes(bytes(80), 8000, 0, 16), "Channel count is zero"),
        (wav_bytes(bytes(80), 8000, 65_535, 16), "Too many channels"),
        (wav_bytes(bytes(80), 0, 1, 16), "wav header cannot be read"),
        (wav_bytes(bytes(80), 8000, 1, 77), "wav header cannot be read"),
        (wav_bytes(struct.pack("<2f", 0.5, np.nan), 8000, 1, 32, code=FLOAT), "NaN, infinite"),
        (wav_bytes(struct.pack("<2f", 0.5, -np.inf), 8000, 1, 32, code=FLOAT), "NaN, infinite"),
        (wav_bytes(struct.pack("<2f", np.inf, -np.inf), 8000, 2, 32, code=FLOAT), "NaN, infinite"),
        (wav_bytes(struct.pack("<f", 1e38), 8000, 1, 32, code=FLOAT), "or huge"),
    ],
    ids=range(19),
)
def test_no_sounds(data, words):
    with pytest.raises(SampleError, match=words) as caught:
        decode_sound(data)
    assert "0x" not in str(caught.value)  # an address differs between ranks
    with pytest.raises(SampleError, match=words):
        check_sound(data)


@pytest.mark.parametrize(
    ("kind", "coding"), [c for c in CODINGS if c[1] not in ("DOUBLE", "PCM_U8", "PCM_32")]
)
@pytest.mark.parametrize("share", [0.97, 0.5, 0.1, 0.01])
def test_truncated_files(kind, coding, share):
    data = encoded(tone(3.0, 16_000), 16_000, kind, coding)
    with pytest.raises(SampleError, match=r"truncated|damaged|cannot be read"):
        decode_sound(data[: int(len(data) * share)])


@pytest.mark.parametrize("size", [0x7FFF_FFFF, 0xFFFF_FFFF])
def test_a_wav_that_was_streamed_has_no_size(size):
    content = (tone() * 32767).astype("<i2").tobytes()
    assert decode_sound(wav_bytes(content, 8000, 1, 16, size))[0] == pytest.approx(tone(), abs=1e-4)


def test_a_wav_with_a_size_that_is_too_large():
    content = (tone() * 32767).astype("<i2").tobytes()
    with pytest.raises(SampleError, match="truncated: the last 2000000000 bytes are missing"):
        decode_sound(wav_bytes(content, 8000, 1, 16, len(content) + 2_000_000_000))


def test_a_flac_that_was_streamed_has_no_length():
    wave = tone(3.0)
    data = with_flac_length(encoded(wave), 0)
    assert sound_info(data).length is None
    assert sound_info(data).seconds is None
    assert decode_sound(data)[0] == pytest.approx(wave, abs=1e-4)
    span, _ = decode_sound(data, lambda length, _: Span(length - 100, 100))
    assert span == pytest.approx(wave[-100:], abs=1e-4)
    check_sound(data)
    for limits in (SoundLimits(max_seconds=2.9), SoundLimits(max_samples=23_999)):
        with pytest.raises(SampleError, match="sound has more than"):
            decode_sound(data, limits=limits)


@pytest.mark.parametrize("length", [24_001, 1_000_000, 28_000_000])
def test_a_flac_with_a_length_that_is_too_large(length):
    """Within the limits by its header, but most of it does not exist, and no memory is taken."""
    data = with_flac_length(encoded(tone(3.0)), length)
    with pytest.raises(SampleError, match=r"flac sound is (truncated|damaged)"):
        decode_sound(data)
    with pytest.raises(SampleError, match=r"flac sound is (truncated|damaged)"):
        decode_sound(data, lambda length, _: Span(length - 100, 100))
    with pytest.raises(SampleError, match=r"flac sound is (truncated|damaged)"):
        check_sound(data)
    assert len(decode_sound(data, lambda *_: Span(0, 1000))[0]) == 1000


def test_a_flac_of_a_month():
    data = with_flac_length(encoded(tone()), 2**36 - 1)
    with pytest.raises(SampleError, match=r"8589934\.6 seconds by its header is above the limit"):
        decode_sound(data)


MP3_FRAME = 576
"""Samples of a frame at 16 kHz."""
MP3_DELAY = 576 + 529
"""Samples before the sound, of LAME and of a decoder; they are cut if LAME's frame tells them."""


def rising(loud_first=False):
    """Silence and noise; the frames of a variable bit rate become larger, or smaller."""
    noise = np.random.default_rng(0).normal(0, 0.2, 24_000)
    wave = np.concatenate([noise * 0.001, noise])
    return wave[::-1] if loud_first else wave


@cache
def rising_mp3(mode, loud_first):
    """The file and what it decodes to."""
    data = encoded(rising(loud_first), 16_000, "MP3", bitrate_mode=mode)
    return data, decode_sound(data)[0]


@pytest.mark.parametrize("tags", [b"", id3_tag(70_000), id3_tag(300) + id3_tag(20_000)])
@pytest.mark.parametrize("end", [b"", b"TAG" + bytes(125)])
@pytest.mark.parametrize(
    ("mode", "loud_first"), [("CONSTANT", False), ("VARIABLE", False), ("VARIABLE", True)]
)
def test_an_mp3_without_a_count_has_no_length(mode, loud_first, tags, end):
    """Its length was guessed: too large with tags, too small if the first frames are small."""
    data, expected = rising_mp3(mode, loud_first)
    assert sound_info(tags + data + end).length == len(expected) == 48_000
    changed = tags + without_count(data) + end
    assert check_sound(changed) == sound_info(changed)
    assert sound_info(changed).length is None
    wave, rate = decode_sound(changed)
    assert rate == 16_000
    first = MP3_FRAME + MP3_DELAY
    assert len(wave) % MP3_FRAME == 0
    assert 48_000 <= len(wave) - first < 48_000 + 3 * MP3_FRAME
    assert wave[first : first + 48_000] == pytest.approx(expected, abs=1e-4)
    span, _ = decode_sound(changed, lambda length, _: Span(length - 5000, 4000))
    assert np.array_equal(span, wave[-5000:-1000])


def test_an_mp3_with_a_count_and_tags_is_truncated():
    data = encoded(rising(), 16_000, "MP3")
    for tags in (b"", id3_tag(70_000), id3_tag(300) + id3_tag(20_000)):
        for check in (decode_sound, check_sound):
            with pytest.raises(SampleError, match=r"truncated: expected 48000 samples|damaged"):
                check(tags + data[: len(data) // 2])


def test_limits_of_an_mp3_without_a_count():
    """As they are, not by the size of a tag."""
    data = id3_tag(500_000) + without_count(encoded(rising(), 16_000, "MP3"))
    assert len(decode_sound(data, limits=SoundLimits(max_seconds=3.3))[0]) < 3.3 * 16_000
    check_sound(data, SoundLimits(max_seconds=3.3))
    for check in (lambda limits: decode_sound(data, limits=limits), lambda x: check_sound(data, x)):
        with pytest.raises(SampleError, match=r"more than 46400 samples .*max_seconds=2\.9"):
            check(SoundLimits(max_seconds=2.9))


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_damage_anywhere_is_a_named_fault_or_a_sound(kind):
    data = encoded(tone(0.6, 16_000), 16_000, kind)
    rng = np.random.default_rng(0)
    for _ in range(60):
        changed = bytearray(data)
        for at in rng.integers(0, min(len(data), 200), 3):
            changed[at] = rng.integers(256)
        try:
            wave, rate = decode_sound(bytes(changed))
        except SampleError as error:
            assert "0x" not in error.reason or "Header" in error.reason  # noqa: PT017
        else:
            assert len(wave) <= rate * 3600
            assert np.isfinite(wave).all()


def test_kinds_by_content():
    assert sound_kind(b"") is None
    assert sound_kind(b"\xff\xd8\xff\xe0") is None  # JPEG
    assert sound_kind(b"\xff\xf1\x50\x80") is None  # AAC
    assert sound_kind("ÿþ text".encode("utf-16-le")) is None
    for kind in ("WAV", "FLAC", "OGG", "MP3"):
        assert sound_kind(encoded(tone(), 8000, kind)[:16]) == kind.lower()


def test_the_sound_of_a_sample():
    assert sound_extension({"jpg": b"1", "mp3": b"2", "flac": b"3"}) == "flac"
    assert sound_extension({"txt": b""}) is None


def test_limits_that_cannot_work():
    for options in ({"max_bytes": 0}, {"max_channels": 65}, {"max_sample_rate": 0}):
        (name,) = options
        with pytest.raises(ConfigError, match=f"limits.{name}"):
            SoundLimits(**options)


def test_without_soundfile(monkeypatch):
    decode._reader_class.cache_clear()
    monkeypatch.setitem(sys.modules, "soundfile", None)
    with pytest.raises(ConfigError, match=r"pip install 'clipkit\[audio\]'"):
        decode_sound(sound_bytes())
    decode._reader_class.cache_clear()
