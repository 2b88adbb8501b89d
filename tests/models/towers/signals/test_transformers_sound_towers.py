"""CLAP's audio branch and Whisper's encoder, out of tiny models that are made here."""

from __future__ import annotations

import pytest
import torch
from transformers import ClapConfig, ClapModel, WhisperConfig, WhisperForConditionalGeneration

from clipkit.errors import ConfigError
from clipkit.models import ClapSoundTower, WhisperSoundTower
from tests.helpers.sound_towers import HTSAT, WHISPER, build, mel, values

CLAP_TEXT = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
FUSED = {**HTSAT, "enable_fusion": True, "fusion_type": "aff_2d"}


def save_clap(folder, audio):
    torch.manual_seed(3)
    config = ClapConfig(text_config=CLAP_TEXT, audio_config=audio, projection_dim=24)
    clap = ClapModel(config).eval()
    norm = clap.audio_model.audio_encoder.batch_norm
    torch.nn.init.normal_(norm.running_mean)  # as after training
    torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    clap.save_pretrained(folder)
    return clap


@pytest.fixture(scope="module")
def whisper(tmp_path_factory):
    """A folder, and the model that is in it."""
    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(3)
    model = WhisperForConditionalGeneration(WhisperConfig(**WHISPER)).eval()
    model.save_pretrained(folder)
    return str(folder), model


@pytest.mark.parametrize("audio", [HTSAT, FUSED], ids=["unfused", "fused"])
@torch.no_grad()
def test_clap_of_a_folder_is_that_of_transformers(tmp_path, audio):
    clap = save_clap(tmp_path, audio)
    tower = ClapSoundTower(str(tmp_path), mel=mel(16, 200)).eval()
    spectrograms = values(tower)
    features = spectrograms.transpose(1, 2)[:, None]
    if audio is FUSED:  # four crops of a sound that is not longer than one: all the same
        features = features.expand(-1, 4, -1, -1)
    is_longer = torch.zeros(len(features), 1, dtype=torch.bool)
    own = clap.get_audio_features(input_features=features, is_longer=is_longer).pooler_output
    torch.testing.assert_close(torch.nn.functional.normalize(tower(spectrograms)), own)
    assert tower.embedding_dim == 24


@torch.no_grad()
def test_clap_with_another_projection(tmp_path):
    clap = save_clap(tmp_path, HTSAT)
    tower = ClapSoundTower(str(tmp_path), 12, projection="linear", mel=mel(16, 200)).eval()
    features = values(tower).transpose(1, 2)[:, None]
    pooled = clap.audio_model(input_features=features).pooler_output
    torch.testing.assert_close(tower(values(tower)), pooled @ tower.projection.weight.T)


@torch.no_grad()
def test_whisper_of_a_folder_is_that_of_transformers(whisper):
    folder, model = whisper
    tower = WhisperSoundTower(folder, 24).eval()
    assert tower.input_shape == (16, 120)
    spectrograms = values(tower)
    states = model.get_encoder()((spectrograms + 4) / 4).last_hidden_state
    expected = states.mean(dim=1) @ tower.projection.weight.T
    torch.testing.assert_close(tower(spectrograms), expected)
    assert not any("decoder" in name for name, _ in tower.named_parameters())


@torch.no_grad()
def test_whisper_reads_short_sounds_with_its_first_positions(whisper):
    folder, _ = whisper
    short, long = WhisperSoundTower(folder, 24, num_frames=80), WhisperSoundTower(folder, 24)
    own = dict(short.trunk.state_dict())
    assert own["embed_positions.weight"].shape == (40, 32)
    full = long.trunk.state_dict()
    assert torch.equal(own.pop("embed_positions.weight"), full.pop("embed_positions.weight")[:40])
    assert all(torch.equal(value, full[name]) for name, value in own.items())
    assert short.config()["num_frames"] == 80
    assert WhisperSoundTower(**short.config()).input_shape == (16, 80)


@torch.no_grad()
def test_whisper_s_positions_are_constant_waves():
    tower = build("whisper")
    positions = tower.trunk.embed_positions.weight
    assert not positions.requires_grad
    channels = positions.shape[1] // 2
    rates = 10000.0 ** (-torch.arange(channels) / (channels - 1))  # Vaswani et al. 2017
    angles = torch.arange(len(positions))[:, None] * rates
    torch.testing.assert_close(positions, torch.cat([angles.sin(), angles.cos()], dim=1))


def test_weights_of_another_architecture_are_refused(tmp_path, whisper):
    folder, _ = whisper
    save_clap(tmp_path, HTSAT)
    with pytest.raises(ConfigError, match=r"expected a CLAP model, .* got 'whisper'"):
        ClapSoundTower(folder)
    with pytest.raises(ConfigError, match=r"expected a Whisper model, .* got 'clap'"):
        WhisperSoundTower(str(tmp_path), 24)
    weights = next(tmp_path.glob("*.safetensors"))
    from safetensors.torch import load_file, save_file

    kept = {n: v for n, v in load_file(weights).items() if not n.startswith("audio_projection")}
    save_file(kept, weights, metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"have no 'audio_projection.linear1.bias' \(4 are mi"):
        ClapSoundTower(str(tmp_path), mel=mel(16, 200))
    weights.unlink()
    with pytest.raises(ConfigError, match="transformers cannot build ClapAudioModelWithProjection"):
        ClapSoundTower(str(tmp_path), mel=mel(16, 200))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "no/such/folder"}, "finds no configuration for 'no/such/folder'"),
        ({"pretrained": True}, "a configuration has no weights"),
        ({"projection": "conv"}, "projection: expected one of clap, linear, mlp, none, got 'conv'"),
        ({"projection": "linear"}, "embedding_dim: required with projection: linear"),
        ({"embedding_dim": 16}, "CLAP's projection returns 24 components, got 16"),
        ({"projection": "none", "embedding_dim": 24}, "'none' needs embedding_dim = 32"),
        ({"mel": mel(16, 257)}, "mel.num_frames: this model reads at most 256 frames, got 257"),
        ({"mel": mel(20, 100)}, "mel.num_mels: this model reads 16 bands, got 20"),
        ({"mel": None}, "mel.num_mels: this model reads 16 bands, got 64"),
        ({"model": {**FUSED, "fusion_type": "channel_map"}}, "with fusion_type 'channel_map'"),
        ({"model": {**HTSAT, "num_mel_bins": 65}}, "num_mel_bins: expected a divisor of"),
        ({"model": {**HTSAT, "hidden_size": 33}}, "hidden_size: expected 32, .* got 33"),
    ],
)
def test_options_of_clap_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        ClapSoundTower(**{"model": HTSAT, "pretrained": False, "mel": mel(16, 100), **options})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": "no/such/folder"}, "finds no configuration for 'no/such/folder'"),
        ({"pretrained": True}, "a configuration has no weights"),
        ({"num_frames": 122}, "an even number from 2 to 120, .* got 122"),
        ({"num_frames": 81}, "an even number from 2 to 120, .* got 81"),
        ({"num_frames": 0}, "an even number from 2 to 120, .* got 0"),
        ({"projection": "none"}, "'none' needs embedding_dim = 32"),
        ({"model": {**WHISPER, "d_model": 33}}, "cannot build WhisperEncoder"),
    ],
)
def test_options_of_whisper_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        WhisperSoundTower(**{"model": WHISPER, "embedding_dim": 24, "pretrained": False, **options})
