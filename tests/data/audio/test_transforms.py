"""Spectrograms of files: which piece, how it is filled up, what is random."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import ClapFeatureExtractor

from clipkit.data.audio.augment import (
    RandomBackground,
    RandomGain,
    RandomNoise,
    SpecAugment,
    mixed,
)
from clipkit.data.audio.decode import Span
from clipkit.data.audio.formats import SoundLimits
from clipkit.data.audio.pieces import padded, piece_at, resampled, source_length
from clipkit.data.audio.transforms import EvalSoundTransform, TrainSoundTransform
from clipkit.data.rng import generator
from clipkit.errors import ConfigError, SampleError
from clipkit.mel import MelOptions, log_mel
from tests.helpers.sounds import encoded, sound_bytes, tone

MEL = MelOptions(
    sample_rate=8000, num_mels=12, window=128, hop=50, f_min=20.0, f_max=4000.0, num_frames=40
)  # a quarter of a second


def spectrogram(wave: np.ndarray) -> torch.Tensor:
    return log_mel(wave.astype(np.float32), MEL)


def decoded(data: bytes) -> np.ndarray:
    """The samples of a mono WAV of 16 bits, without a library."""
    return np.frombuffer(data[44:], "<i2") / 32768


@pytest.mark.parametrize(("crop", "start"), [("centre", 1000), ("start", 0)])
def test_the_piece_of_a_longer_sound(crop, start):
    data = sound_bytes(0.5)
    expected = spectrogram(decoded(data)[start : start + 2000])
    for transform in (EvalSoundTransform(MEL, crop), TrainSoundTransform(MEL, crop)):
        assert torch.allclose(transform(data, generator(0)), expected, atol=1e-3)


def test_random_pieces_reach_all_places():
    starts = {piece_at(generator(seed).random(), 13, 10).start for seed in range(60)}
    assert starts == {0, 1, 2, 3}
    data = sound_bytes(0.5)
    wave = decoded(data)
    transform = TrainSoundTransform(MEL)
    for seed in range(3):
        start = int(generator(seed).random() * 2001)
        expected = spectrogram(wave[start : start + 2000])
        assert torch.allclose(transform(data, generator(seed)), expected, atol=1e-3)


@pytest.mark.parametrize("padding", ["repeat", "repeat-zero", "zero"])
def test_short_sounds_are_filled_up(padding):
    data = sound_bytes(0.1)
    wave = decoded(data)
    filled = {
        "repeat": np.concatenate([wave, wave, wave[:400]]),
        "repeat-zero": np.concatenate([wave, wave, np.zeros(400)]),
        "zero": np.concatenate([wave, np.zeros(1200)]),
    }[padding]
    for transform in (
        EvalSoundTransform(MEL, padding=padding),
        TrainSoundTransform(MEL, padding=padding),
    ):
        assert torch.allclose(transform(data, generator(0)), spectrogram(filled), atol=1e-3)


def test_filling_up_never_changes_the_length():
    for size in (0, 1, 2, 3, 7, 8):
        for padding in ("repeat", "repeat-zero", "zero"):
            assert len(padded(np.ones(size, dtype=np.float32), 7, padding)) == 7


@pytest.mark.parametrize("rate", [4000, 11_025, 44_100, 192_000])
def test_a_tone_keeps_its_frequency_at_any_rate(rate):
    """The loudest band is that of 1 kHz, whatever the file's rate; the level differs little."""
    data = encoded(tone(0.6, rate, hz=1000.0), rate, "WAV", "FLOAT")
    levels = EvalSoundTransform(MEL).of_file(data)
    same_rate = spectrogram(tone(0.25, 8000, hz=1000.0))
    assert levels.mean(1).argmax() == same_rate.mean(1).argmax()
    assert levels.max(0).values.mean() == pytest.approx(same_rate.max(0).values.mean(), abs=1.5)


def test_resampling_removes_what_the_lower_rate_cannot_hold():
    wave = np.sin(2 * np.pi * 6000 * np.arange(16_000) / 16_000).astype(np.float32)
    assert np.abs(resampled(wave, 16_000, 8000)[500:-500]).max() < 1e-2


def test_only_the_piece_is_resampled():
    assert source_length(2000, 8000, 192_000) == 48_000
    data = sound_bytes(2.0, 192_000)
    limits = SoundLimits(max_samples=48_000)
    assert EvalSoundTransform(MEL, limits=limits).of_file(data).shape == (12, 40)
    with pytest.raises(SampleError, match="max_samples"):
        EvalSoundTransform(MEL, limits=SoundLimits(max_samples=47_999)).of_file(data)


def full() -> TrainSoundTransform:
    return TrainSoundTransform(
        MEL, augmentations=[RandomGain(), RandomNoise(probability=0.7)], masks=SpecAugment(2, 5)
    )


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_a_pure_function_of_bytes_and_generator(kind):
    data = encoded(tone(0.7, 16_000), 16_000, kind)
    seen = [full()(data, generator(3, seed)) for seed in range(4)]
    for seed, expected in enumerate(seen):
        assert torch.equal(full()(data, generator(3, seed)), expected)
    assert not torch.equal(seen[0], seen[1])


def test_later_draws_do_not_depend_on_the_sound():
    """A sample's other fields draw after it: they are the same for a long and for a short sound."""
    states = []
    for seconds in (0.01, 0.25, 0.9):
        rng = generator(5)
        TrainSoundTransform(MEL, crop="centre", masks=SpecAugment())(sound_bytes(seconds), rng)
        states.append(rng.random())
    assert len(set(states)) == 1


def test_evaluation_draws_nothing():
    rng = generator(1)
    EvalSoundTransform(MEL)(sound_bytes(), rng)
    assert rng.random() == generator(1).random()


def test_waves_in_memory():
    data = sound_bytes(0.5)
    transform = EvalSoundTransform(MEL)
    wave = decoded(data).astype(np.float32)
    assert torch.allclose(transform.of_wave(wave, 8000), transform.of_file(data), atol=1e-3)
    for broken, rate in ((wave[:0], 8000), (wave, 0)):
        with pytest.raises(SampleError, match="per second"):
            transform.of_wave(broken, rate)


@pytest.mark.parametrize("transform", [EvalSoundTransform(MEL), TrainSoundTransform(MEL)])
def test_a_sound_without_a_sample_at_the_rate_of_the_tower_is_no_silence(transform):
    data = encoded(tone(0.5, 192_000)[:9], 192_000)
    with pytest.raises(SampleError, match="sound of 9 samples at 192000 per second has none at"):
        transform(data, generator(0))


def test_gain():
    wave = tone().astype(np.float32)
    louder = RandomGain((20.0, 20.0))(wave, 8000, generator(0))
    assert louder == pytest.approx(10 * wave, rel=1e-5)
    assert RandomGain((20.0, 20.0), probability=0.0)(wave, 8000, generator(0)) is wave


@pytest.mark.parametrize("ratio", [0.0, 10.0, 30.0])
def test_noise_has_its_share_of_the_energy(ratio):
    wave = tone(2.0).astype(np.float32)
    noise = RandomNoise((ratio, ratio), probability=1.0)(wave, 8000, generator(0)) - wave
    measured = 10 * np.log10(np.mean(wave**2) / np.mean(noise**2))
    assert measured == pytest.approx(ratio, abs=0.1)


def test_silence_stays_silent():
    silence = np.zeros(100, dtype=np.float32)
    assert not mixed(silence, np.ones(100, dtype=np.float32), 10.0).any()
    assert mixed(np.ones(100, dtype=np.float32), silence, 10.0).all()


def test_backgrounds(tmp_path):
    (tmp_path / "a.wav").write_bytes(sound_bytes(0.05, 16_000))
    (tmp_path / "b.flac").write_bytes(encoded(tone(3.0, 44_100), 44_100))
    files = [str(tmp_path / name) for name in ("a.wav", "b.flac")]
    mix = RandomBackground(files, decibels=(6.0, 6.0), probability=1.0)
    wave = tone(0.5).astype(np.float32)
    for seed in range(4):
        changed = mix(wave, 8000, generator(seed))
        assert np.array_equal(changed, mix(wave, 8000, generator(seed)))
        ratio = 10 * np.log10(np.mean(wave**2) / np.mean((changed - wave) ** 2))
        assert ratio == pytest.approx(6.0, abs=0.1)
    (tmp_path / "c.wav").write_bytes(b"no sound")
    for broken in ([], [str(tmp_path / "c.wav")], [str(tmp_path / "absent.wav")]):
        with pytest.raises(ConfigError, match=r"RandomBackground\.files"):
            RandomBackground(broken)


def test_masks_are_rectangles_of_the_mean():
    levels = torch.arange(12.0 * 40).reshape(12, 40)
    widths = set()
    for seed in range(200):
        masked = SpecAugment(1, 5, 0, 8)(levels, generator(seed))
        changed = (masked != levels).all(0)
        assert torch.equal(masked[:, ~changed], levels[:, ~changed])
        assert torch.all(masked[:, changed] == levels.mean())
        widths.add(int(changed.sum()))
        masked = SpecAugment(0, 5, 1, 3)(levels, generator(seed))
        assert (masked != levels).all(1).sum() <= 3
    assert widths == set(range(6))
    assert torch.equal(SpecAugment(9, 0, 9, 0)(levels, generator(0)), levels)
    assert SpecAugment(2, 1000, 2, 1000)(levels, generator(0)).shape == levels.shape


def test_clap_fills_up_short_sounds_as_its_feature_extractor():
    mel = MelOptions.clap()
    wave = tone(3.0, mel.sample_rate).astype(np.float32)
    extractor = ClapFeatureExtractor(truncation="rand_trunc", padding="repeatpad", frequency_min=50)
    features = extractor(wave, sampling_rate=mel.sample_rate, return_tensors="np")
    ours = EvalSoundTransform(mel).of_wave(wave, mel.sample_rate).numpy()
    expected = features["input_features"][0, 0].T
    assert ours[:, :999] == pytest.approx(expected[:, :999], abs=1e-2)


def test_options_of_a_transform_replace_those_of_its_mel():
    mel = replace(MEL, crop="start", padding="zero")
    assert EvalSoundTransform(mel).mel == TrainSoundTransform(mel).mel == mel
    assert EvalSoundTransform(mel, "centre", "repeat").mel == MEL
    assert TrainSoundTransform(mel).crop == "random"
    assert TrainSoundTransform(mel).for_evaluation().crop == "start"
    assert TrainSoundTransform(MEL, "start", "zero").for_evaluation().mel == mel


def test_options_that_cannot_work():
    with pytest.raises(ConfigError, match="crop: expected one of random, start, centre"):
        TrainSoundTransform(MEL, crop="middle")
    with pytest.raises(ConfigError, match="crop: expected one of start, centre"):
        EvalSoundTransform(MEL, crop="random")
    with pytest.raises(ConfigError, match="padding: expected one of repeat, repeat-zero, zero"):
        EvalSoundTransform(MEL, padding="mirror")
    with pytest.raises(ConfigError, match=r"RandomGain\.decibels"):
        RandomGain((6.0, -6.0))
    with pytest.raises(ConfigError, match=r"SpecAugment\.max_mels"):
        SpecAugment(max_mels=-1)
    with pytest.raises(ConfigError, match="probability"):
        RandomNoise(probability=1.5)


def test_without_soxr(monkeypatch):
    monkeypatch.setitem(sys.modules, "soxr", None)
    with pytest.raises(ConfigError, match=r"need soxr.*clipkit\[audio\]"):
        EvalSoundTransform(MEL)
    with pytest.raises(ConfigError, match=r"need soxr.*clipkit\[audio\]"):
        resampled(np.zeros(9, dtype=np.float32), 8000, 16_000)


def test_pieces_by_numbers():
    assert piece_at(0.0, 10, 4) == Span(0, 4)
    assert piece_at(0.5, 10, 4) == Span(3, 4)
    assert piece_at(np.nextafter(1.0, 0.0), 10, 4) == Span(6, 4)
    assert piece_at(0.9, 3, 4) == Span(0, 3)
