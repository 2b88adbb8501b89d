"""Sounds as they are, to embeddings; towers for sound in files of checkpoints."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import WhisperFeatureExtractor

from clipkit.errors import ConfigError, DataError
from clipkit.mel import MelOptions, log_mel
from clipkit.models import (
    ClapSoundTower,
    MultimodalEncoder,
    TcnTower,
    TimmSoundTower,
    WhisperSoundTower,
    load_multimodal_encoder,
    save_encoder,
    with_towers,
)
from tests.helpers import tiny
from tests.helpers.sound_towers import BUILDERS, HTSAT, WHISPER, build, values
from tests.helpers.sounds import sound_bytes

MEL = MelOptions(sample_rate=8000, f_max=4000, hop=160, window=512, num_mels=32, num_frames=50)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    return MultimodalEncoder({"sound": TcnTower(8, MEL, width=8, num_blocks=2)})


def wave(num_samples, seed=0):
    return (np.random.default_rng(seed).normal(size=num_samples) * 0.1).astype(np.float32)


def test_waves_are_embedded_as_their_spectrograms(encoder):
    encoder.train()
    waves = [wave(MEL.length, seed) for seed in range(5)]
    embedded = encoder.encode_sounds([(one, 8000) for one in waves], batch_size=2)
    assert encoder.sound_tower.blocks[0].training  # as before
    encoder.eval()
    spectrograms = torch.stack([log_mel(one, MEL) for one in waves])
    torch.testing.assert_close(embedded, encoder.encode_signal("sound", spectrograms))
    torch.testing.assert_close(embedded.norm(dim=1), torch.ones(5))
    assert encoder.encode_sounds([]).shape == (0, 8)


def test_crop_and_padding_of_a_tower_are_in_its_file(tmp_path):
    mel = replace(MEL, crop="start", padding="zero")
    save_encoder(MultimodalEncoder({"sound": TcnTower(8, mel, width=8, num_blocks=1)}), tmp_path)
    loaded = load_multimodal_encoder(tmp_path).eval()
    long, short = wave(2 * MEL.length), wave(MEL.length // 3)
    read = [long[: MEL.length], np.pad(short, (0, MEL.length - len(short)))]
    expected = loaded.encode_signal("sound", torch.stack([log_mel(one, MEL) for one in read]))
    torch.testing.assert_close(loaded.encode_sounds([(long, 8000), (short, 8000)]), expected)


def test_clap_fills_up_as_it_was_trained_and_earlier_files_as_they_were():
    htsat = {**HTSAT, "num_mel_bins": 64, "spec_size": 256}
    tower = ClapSoundTower(htsat, pretrained=False)
    assert tower.mel.padding == "repeat-zero"
    config = tower.config()
    assert ClapSoundTower(**config).mel == tower.mel
    del config["mel"]["padding"]
    assert ClapSoundTower(**config).mel.padding == "repeat"
    whisper = WhisperSoundTower(WHISPER, 8, pretrained=False, padding="zero")
    assert WhisperSoundTower(**whisper.config()).mel == whisper.mel
    assert whisper.mel.padding == "zero"


def test_files_are_embedded(encoder, tmp_path):
    path = tmp_path / "bark.wav"
    path.write_bytes(sound_bytes())
    by_path, by_name = encoder.encode_sounds([path]), encoder.encode_sounds([str(path)])
    assert torch.equal(by_path, by_name)
    path.write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"sounds\[0\]: .*bark.wav: "):
        encoder.encode_sounds([path])
    with pytest.raises(DataError, match=r"sounds\[1\]: nowhere.wav: cannot be read"):
        encoder.encode_sounds([(wave(900), 8000), "nowhere.wav"])


def test_what_is_no_sound_is_refused(encoder):
    with pytest.raises(ConfigError, match="sounds: expected a list of sounds, got one str"):
        encoder.encode_sounds("bark.wav")
    with pytest.raises(ConfigError, match=r"sounds\[0\]: expected the path of a sound file, or"):
        encoder.encode_sounds([3])
    with pytest.raises(DataError, match=r"sounds\[0\]: sound has 0 samples"):
        encoder.encode_sounds([(wave(0), 8000)])
    with pytest.raises(ConfigError, match="batch_size: expected at least 1, got 0"):
        encoder.encode_sounds([], batch_size=0)
    series = MultimodalEncoder({"sensors": TcnTower(8, input_shape=(2, 9), width=8, num_blocks=1)})
    with pytest.raises(ConfigError, match="sounds: TcnTower reads no spectrograms; give the tower"):
        series.encode_sounds([], name="sensors")
    with pytest.raises(ConfigError, match="got 'sound'"):
        series.encode_sounds([])


@pytest.mark.parametrize(
    ("amplitudes", "message"),
    [
        (
            np.zeros((900, 2), np.float32),
            r"\[0\]: expected amplitudes of one channel, .* \[900, 2\]",
        ),
        (torch.zeros(2, 900), r"one channel, .* \[2, 900\]; use the mean of the channels"),
        (np.float32(0.5), "one channel"),
        (np.zeros(900, np.int16), "as floats, -1 to 1, got int16; divide integers"),
        (np.array([0.0, np.nan] * 450), "sound has amplitudes that are NaN, infinite or huge"),
        (np.full(900, 1e300), "NaN, infinite or huge"),
    ],
)
def test_amplitudes_that_are_no_channel_of_floats_are_refused(encoder, amplitudes, message):
    with pytest.raises((ConfigError, DataError), match=message):
        encoder.encode_sounds([(amplitudes, 8000)])


def test_one_channel_may_have_an_axis(encoder):
    one = wave(3000)
    rows = encoder.encode_sounds(
        [(one, 8000), (one[None], 8000), (torch.tensor(one)[:, None], 8000)]
    )
    assert torch.equal(rows[0], rows[1])
    assert torch.equal(rows[0], rows[2])


@torch.no_grad()
def test_whisper_embeds_a_wave_as_transformers_does():
    """From 30 seconds of a wave to the states, with the feature extractor of transformers."""
    config = {**WHISPER, "num_mel_bins": 80, "max_source_positions": 1500, "encoder_layers": 1}
    torch.manual_seed(0)
    tower = WhisperSoundTower(config, 8, pretrained=False).eval()
    assert tower.mel == MelOptions.whisper()
    given = wave(480_000)
    embedded = MultimodalEncoder({"sound": tower}).encode_sounds([(given, 16_000)])
    features = WhisperFeatureExtractor()(given, sampling_rate=16_000, return_tensors="pt")
    states = tower.trunk(features.input_features).last_hidden_state
    expected = torch.nn.functional.normalize(tower.projection(states.mean(dim=1)))
    torch.testing.assert_close(embedded, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", BUILDERS)
@torch.no_grad()
def test_towers_in_the_file_of_an_encoder(name, tmp_path):
    saved = MultimodalEncoder({"sound": build(name)}).eval()
    save_encoder(saved, tmp_path / "export")
    loaded = load_multimodal_encoder(tmp_path / "export")
    tower = loaded.towers["sound"]
    assert type(tower) is type(saved.towers["sound"])
    assert tower.mel == saved.towers["sound"].mel
    given = values(tower)
    assert torch.equal(loaded.encode_signal("sound", given), saved.encode_signal("sound", given))


def test_a_sound_tower_next_to_image_and_text():
    pairs = tiny.encoder()
    tower = TimmSoundTower("test_vit", pairs.embedding_dim, MEL, mean=-40.0, std=20.0)
    encoder = with_towers(pairs, {"sound": tower})
    assert encoder.encode_sounds([(wave(3000), 8000)]).shape == (1, pairs.embedding_dim)


def test_all_modalities_in_one_call(tmp_path):
    pairs = tiny.encoder()
    model = with_towers(pairs, {"sound": TcnTower(pairs.embedding_dim, MEL, width=8)}).train()
    image, sound = tmp_path / "dog.png", tmp_path / "bark.wav"
    Image.new("RGB", (20, 30), "red").save(image)
    sound.write_bytes(sound_bytes())
    sounds = [sound, (wave(900), 8000)]
    embedded = model.encode(text=["a dog", "a cat"], image=[image], sound=sounds)
    assert model.training
    expected = pairs.encode(["a dog", "a cat"], [image])
    assert torch.equal(embedded["text"], expected.texts)
    assert torch.equal(embedded["image"], expected.images)
    assert torch.equal(embedded["sound"], model.encode_sounds(sounds))
    assert model.encode(sound=[sound]).keys() == {"sound"}
    assert model.encode() == {}
    empty = model.encode(text=[], image=[], sound=[])
    assert {name: rows.shape for name, rows in empty.items()} == dict.fromkeys(
        ("text", "image", "sound"), (0, pairs.embedding_dim)
    )


def test_inputs_without_a_tower_and_single_ones_are_refused(encoder):
    with pytest.raises(ConfigError, match="text: expected inputs of the towers sound, which are"):
        encoder.encode(text=["a dog"], sound=[(wave(900), 8000)])
    with pytest.raises(ConfigError, match="text: expected inputs of the towers sound, which are"):
        encoder.encode(text=[])
    for single in ("bark.wav", Path("bark.wav")):
        with pytest.raises(ConfigError, match="sounds: expected a list of sounds, got one "):
            encoder.encode(sound=single)
    with pytest.raises(ConfigError, match="batch_size: expected at least 1, got 0"):
        encoder.encode(batch_size=0)
