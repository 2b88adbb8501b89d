"""Mel scales, filters and spectrograms against known values, loops and transformers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor, WhisperFeatureExtractor
from transformers.audio_utils import mel_filter_bank

from clipkit.errors import ConfigError
from clipkit.mel import MelOptions, hz_to_mel, log_mel, mel_filters, mel_to_hz
from tests.helpers.sounds import tone

SMALL = MelOptions(
    sample_rate=8000, num_mels=10, window=64, hop=20, f_min=20.0, f_max=3900.0, num_frames=12
)


def wave_of(mel: MelOptions, seed: int = 0) -> np.ndarray:
    return tone(mel.seconds, mel.sample_rate, seed=seed).astype(np.float32)


def test_known_values_of_the_scales():
    """HTK: 1000 Hz is nearly 1000 mel; Slaney: 200/3 Hz per mel up to 15, 6400 Hz is 27 above."""
    assert hz_to_mel(np.array([0.0, 700.0]), "htk") == pytest.approx([0.0, 2595 * math.log10(2)])
    assert hz_to_mel(np.array([1000.0]), "htk") == pytest.approx([999.9855], abs=1e-3)
    assert hz_to_mel(np.array([200.0, 1000.0, 6400.0]), "slaney") == pytest.approx([3, 15, 42])


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_the_scales_are_reversed(scale):
    hz = np.linspace(0, 24_000, 977)
    mels = hz_to_mel(hz, scale)
    assert np.all(np.diff(mels) > 0)
    assert mel_to_hz(mels, scale) == pytest.approx(hz, abs=1e-8)


def filters_by_loops(mel: MelOptions) -> np.ndarray:
    low, high = (float(hz_to_mel(np.array([f]), mel.mel_scale)[0]) for f in (mel.f_min, mel.f_max))
    step = (high - low) / (mel.num_mels + 1)
    weights = np.zeros((mel.window // 2 + 1, mel.num_mels))
    for band in range(mel.num_mels):
        left, centre, right = (
            float(mel_to_hz(np.array([low + step * (band + at)]), mel.mel_scale)[0])
            for at in range(3)
        )
        for number in range(mel.window // 2 + 1):
            hz = number * mel.sample_rate / mel.window
            if left < hz <= centre:
                weights[number, band] = (hz - left) / (centre - left)
            elif centre < hz < right:
                weights[number, band] = (right - hz) / (right - centre)
            if mel.equal_area:
                weights[number, band] *= 2 / (right - left)
    return weights


@pytest.mark.parametrize("equal_area", [True, False])
@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_filters_by_loops_and_by_transformers(scale, equal_area):
    mel = replace(SMALL, window=256, mel_scale=scale, equal_area=equal_area, num_frames=40)
    expected = mel_filter_bank(
        num_frequency_bins=129,
        num_mel_filters=10,
        min_frequency=20.0,
        max_frequency=3900.0,
        sampling_rate=8000,
        norm="slaney" if equal_area else None,
        mel_scale=scale,
    )
    assert mel_filters(mel) == pytest.approx(filters_by_loops(mel), abs=1e-12)
    assert mel_filters(mel) == pytest.approx(expected, abs=1e-12)


def test_a_spectrogram_by_loops():
    """Mirrored ends, Hann window, discrete Fourier transform, filters, logarithm."""
    wave = wave_of(SMALL)
    half = SMALL.window // 2
    mirrored = np.concatenate([wave[half:0:-1], wave, wave[-2 : -half - 2 : -1]]).astype(float)
    filters = filters_by_loops(SMALL)
    expected = np.zeros((SMALL.num_mels, SMALL.num_frames))
    for frame in range(SMALL.num_frames):
        energies = []
        for number in range(half + 1):
            value = 0j
            for at in range(SMALL.window):
                window = 0.5 - 0.5 * math.cos(2 * math.pi * at / SMALL.window)
                turn = np.exp(-2j * math.pi * number * at / SMALL.window)
                value += window * mirrored[frame * SMALL.hop + at] * turn
            energies.append(abs(value) ** 2)
        for band in range(SMALL.num_mels):
            energy = sum(w * e for w, e in zip(filters[:, band], energies, strict=True))
            expected[band, frame] = 10 * math.log10(max(energy, SMALL.log_floor))
    assert log_mel(wave, SMALL).numpy() == pytest.approx(expected, abs=2e-3)


def test_units_and_the_dynamic_range():
    wave = wave_of(SMALL)
    decibels = log_mel(wave, SMALL)
    log10 = log_mel(wave, replace(SMALL, unit="log10"))
    natural = log_mel(wave, replace(SMALL, unit="natural"))
    assert torch.allclose(decibels, 10 * log10, atol=1e-4)
    assert torch.allclose(natural, math.log(10) * log10, atol=1e-4)
    limited = log_mel(wave, replace(SMALL, dynamic_range=20.0))
    assert torch.equal(limited, decibels.clamp(min=decibels.max() - 20))


def test_silence_is_the_floor():
    silence = log_mel(np.zeros(SMALL.length, dtype=np.float32), SMALL)
    assert torch.allclose(silence, torch.tensor(SMALL.floor))
    assert SMALL.floor == pytest.approx(-100)


@pytest.mark.parametrize("num_mels", [80, 128])
def test_the_input_of_whisper(num_mels):
    mel = MelOptions.whisper(num_mels)
    wave = tone(30.0, 16_000).astype(np.float32)
    wave[200_000:] = 0
    extractor = WhisperFeatureExtractor(feature_size=num_mels)
    expected = extractor(wave, sampling_rate=16_000)["input_features"][0]
    assert expected.shape == (num_mels, mel.num_frames)
    assert ((log_mel(wave, mel) + 4) / 4).numpy() == pytest.approx(expected, abs=1e-3)


def test_the_input_of_clap():
    """Its last frame is mirrored at 10 seconds; ours reads 480 samples more."""
    mel = MelOptions.clap()
    wave = tone(mel.seconds, mel.sample_rate).astype(np.float32)
    extractor = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad", frequency_min=50)
    features = extractor(wave[:480_000], sampling_rate=48_000, return_tensors="np")
    expected = features["input_features"][0, 0].T
    assert expected.shape == (mel.num_mels, mel.num_frames)
    ours = log_mel(wave, mel).numpy()
    assert ours[:, :999] == pytest.approx(expected[:, :999], abs=1e-2)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("sample_rate", 0, "mel.sample_rate: expected 1 to 192000, got 0"),
        ("num_mels", 200, "of 200 bands contain none of the 33 frequencies"),
        ("num_mels", 10**9, "mel.num_mels"),
        ("hop", 65, "mel.hop: expected 1 to 64, got 65"),
        ("f_max", 4001.0, "mel.f_max: expected 0 to 4000, got 4001"),
        ("f_min", 3900.0, "mel.f_min: expected 0 to below f_max"),
        ("num_frames", 1, "expected more than half a window"),
        ("num_frames", 10**9, "mel.num_frames"),
        ("mel_scale", "mel", "mel.mel_scale: expected one of htk, slaney"),
        ("unit", "dB", "mel.unit: expected one of decibel"),
        ("log_floor", 0.0, "mel.log_floor"),
        ("log_floor", math.nan, "mel.log_floor"),
        ("crop", "random", "mel.crop: expected one of start, centre"),
        ("padding", "mirror", "mel.padding: expected one of repeat, repeat-zero, zero"),
        ("dynamic_range", -1.0, "mel.dynamic_range"),
    ],
)
def test_options_that_cannot_work(option, value, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        replace(SMALL, **{option: value})


def test_options_as_plain_types():
    config = SMALL.config()
    assert all(isinstance(value, int | float | str | None) for value in config.values())
    assert MelOptions.from_config(config) == SMALL
    with pytest.raises(ConfigError, match="no option 'num_mel'; did you mean 'num_mels'"):
        MelOptions.from_config({"num_mel": 3})
    with pytest.raises(ConfigError, match="mel"):
        MelOptions.from_config({"num_mels": "many"})


def test_the_piece_of_a_sound_is_stored_unless_it_is_that_of_earlier_encoders():
    """An encoder without the two options is centre and repeat, and its hash stays the same."""
    assert not {"crop", "padding"} & set(SMALL.config())
    assert (SMALL.crop, SMALL.padding) == ("centre", "repeat")
    other = replace(SMALL, crop="start", padding="zero")
    assert MelOptions.from_config(other.config()) == other
    assert MelOptions.from_config(MelOptions.clap().config()).padding == "repeat-zero"
    assert other.same_values(SMALL)
    assert not other.same_values(replace(SMALL, hop=21))


def test_a_wave_of_another_length_is_refused():
    with pytest.raises(ConfigError, match="expected 240 samples"):
        log_mel(np.zeros(241, dtype=np.float32), SMALL)
