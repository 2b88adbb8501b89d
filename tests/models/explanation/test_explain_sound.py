"""The heat map of a spectrogram is where the tone is that the text names."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from clipkit.errors import ConfigError, DataError, MetricError
from clipkit.mel import MelOptions, log_mel
from clipkit.models import MultimodalEncoder, TcnTower, TimmSoundTower, explain_sound
from clipkit.models.evaluating import evaluating
from clipkit.models.explanation import match
from clipkit.models.inputs import token_batches
from tests.helpers import tiny
from tests.helpers.sound_towers import BUILDERS, build
from tests.helpers.sounds import sound_bytes

MEL = MelOptions(sample_rate=8000, f_max=4000, hop=80, window=512, num_mels=48, num_frames=96)
TEXTS = ("low tone", "high tone")
HZ = (500.0, 2500.0)
PARTS = 3
BURST = MEL.length // 6


def wave(label: int, seed: int) -> tuple[np.ndarray, int]:
    """Noise with a tone in one of three parts of the time, and the number of that part."""
    rng = np.random.default_rng(seed)
    noise = 0.02 * rng.standard_normal(MEL.length)
    part = int(rng.integers(PARTS))
    start, time = part * MEL.length // PARTS + BURST // 2, np.arange(BURST) / MEL.sample_rate
    noise[start : start + BURST] += 0.3 * np.sin(2 * np.pi * HZ[label] * time)
    return noise.astype(np.float32), part


@cache
def trained() -> MultimodalEncoder:
    """An encoder whose convolutions tell both texts apart."""
    torch.manual_seed(0)
    tower = TimmSoundTower("test_resnet", tiny.CONFIG["embed_dim"], MEL, mean=-23.0, std=4.0)
    encoder = MultimodalEncoder({"text": tiny.encoder().text_tower, "sound": tower}).train()
    values = torch.stack([log_mel(wave(n % 2, n)[0], MEL) for n in range(32)])
    labels = torch.arange(32) % 2
    (tokens,) = token_batches(encoder.text_tower, TEXTS, 2)
    optimizer = torch.optim.Adam(encoder.parameters(), 2e-3)
    for step in range(40):
        rows = torch.arange(8) + 8 * (step % 4)
        similarities = encoder.encode_signal("sound", values[rows]) @ encoder.encode_text(tokens).T
        loss = torch.nn.functional.cross_entropy(10 * similarities, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return encoder.eval()


@pytest.mark.parametrize(("method", "expected"), [("auto", "grad_cam"), ("occlusion", "occlusion")])
def test_occlusion_of_the_most_relevant_part_costs_more(method, expected):
    encoder, most, least, hits = trained(), 0.0, 0.0, 0
    for seed in range(100, 108):
        label = seed % 2
        given, part = wave(label, seed)
        explanation = explain_sound(encoder, (given, MEL.sample_rate), TEXTS[label], method)
        assert explanation.method == expected
        assert explanation.heat_map.shape == explanation.spectrogram.shape == (48, 96)
        relevance = explanation.heat_map.reshape(48, PARTS, -1).mean((0, 2))
        drops = []
        for hidden in (int(relevance.argmax()), int(relevance.argmin())):
            values = explanation.spectrogram.clone()
            values[:, 32 * hidden : 32 * (hidden + 1)] = values.mean()
            with torch.no_grad():
                sound = encoder.encode_signal("sound", values[None])[0]
            drops.append(explanation.score - float(sound @ _text(encoder, TEXTS[label])))
        most, least = most + drops[0], least + drops[1]
        hits += int(relevance.argmax()) == part
    assert most > least + 1.0
    assert hits >= 6  # 2.7 of 8 by chance


@pytest.mark.parametrize(("row", "column"), [(0, 3), (2, 0), (1, 4)])
def test_patches_are_at_their_bands_and_frames(monkeypatch, row, column):
    """A vision transformer of 3 x 5 patches of 16, whose last ones are padding from frame 70 on."""

    def planted(recorder, similarity, inputs):
        tokens = torch.zeros(1 + 15)
        tokens[1 + 5 * row + column] = 1.0
        return tokens if inputs is not None else torch.ones(20)

    monkeypatch.setattr(match, "_token_relevance", planted)
    text_tower = tiny.from_open_clip({**tiny.CONFIG, "embed_dim": 24}).text_tower
    encoder = MultimodalEncoder({"text": text_tower, "sound": build("vit")})
    found = explain_sound(encoder, (wave(0, 1)[0], 8000), "a dog")
    assert found.method == "attention"
    assert found.heat_map.shape == (48, 70)
    bands, frames = np.nonzero(found.heat_map.numpy() > 0.9)
    assert {int(band) // 16 for band in bands} == {row}
    assert {int(frame) // 16 for frame in frames} == {column}


@pytest.mark.parametrize("name", BUILDERS)
def test_every_tower_is_explained(name, tmp_path):
    tower = build(name)
    if tower.mel is None:
        return
    text_tower = tiny.from_open_clip({**tiny.CONFIG, "embed_dim": tower.embedding_dim}).text_tower
    encoder = MultimodalEncoder({"text": text_tower, "sound": tower})
    (tmp_path / "a.wav").write_bytes(sound_bytes(3.0))
    found = explain_sound(encoder, tmp_path / "a.wav", "a dog barks")
    assert found.heat_map.shape == tower.input_shape
    assert [word for word, _ in found.words] == ["a", "dog", "barks"]
    expected = encoder.encode_sounds([tmp_path / "a.wav"]) @ _text(encoder, "a dog barks")
    assert found.score == pytest.approx(float(expected), abs=1e-5)
    assert encoder.training  # as before
    if tower.positions() is None:
        assert found.method == "occlusion"
        with pytest.raises(ConfigError, match="does not keep the positions"):
            explain_sound(encoder, tmp_path / "a.wav", "a dog", "attention")


def _text(encoder, text):
    (tokens,) = token_batches(encoder.text_tower, [text], 1)
    with evaluating(encoder):
        return encoder.encode_text(tokens)[0]


def test_errors(tmp_path):
    encoder, given = trained(), (wave(0, 1)[0], 8000)
    with pytest.raises(ConfigError, match="text: expected a text of at least one word"):
        explain_sound(encoder, given, " ")
    with pytest.raises(ConfigError, match="expected an encoder with the towers music and text"):
        explain_sound(encoder, given, "a", name="music")
    with pytest.raises(ConfigError, match="method"):
        explain_sound(encoder, given, "a", "gradients")
    (tmp_path / "no.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"no\.wav"):
        explain_sound(encoder, tmp_path / "no.wav", "a dog")
    broken = MultimodalEncoder({"text": tiny.encoder().text_tower, "sound": TcnTower(16, MEL)})
    with torch.no_grad():
        broken.sound_tower.projection.weight.fill_(float("nan"))
    with pytest.raises(MetricError, match="the values of the sound are not finite"):
        explain_sound(broken, given, "a dog")
