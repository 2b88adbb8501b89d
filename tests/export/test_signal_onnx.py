"""Towers for sound and time as ONNX graphs, run by onnxruntime."""

from __future__ import annotations

import json

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.export.onnx import check_onnx, save_onnx
from clipkit.models import MultimodalEncoder, TcnTower, load_multimodal_encoder
from tests.helpers import tiny
from tests.helpers.sound_towers import build, mel, values

onnxruntime = pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("name", ["vit", "clap", "whisper"])
@torch.no_grad()
def test_graphs_embed_as_the_towers_do(name, tmp_path):
    encoder = MultimodalEncoder({"sound": build(name)}).eval()
    save_onnx(encoder, tmp_path)
    check_onnx(encoder, tmp_path, 1e-4)
    assert {path.name for path in tmp_path.glob("*.onnx")} == {"sound.onnx"}
    session = onnxruntime.InferenceSession(tmp_path / "sound.onnx")
    for size in (1, 5):
        given = values(encoder.towers["sound"], size)
        (found,) = session.run(["sound_embedding"], {"values": given.numpy()})
        expected = encoder.encode_signal("sound", given)
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Texts, sounds and series, with a scale of their own for one pair."""
    text = tiny.encoder().text_tower
    torch.manual_seed(0)
    sizes = {"width": 8, "num_blocks": 2}
    sound = TcnTower(text.embedding_dim, mel(16, 40), **sizes)
    sensors = TcnTower(text.embedding_dim, input_shape=(2, 9), **sizes)
    towers = {"text": text, "sound": sound, "sensors": sensors}
    encoder = MultimodalEncoder(towers, pair_scales=["sound:text"]).eval()
    encoder.log_pair_scales["sound:text"].data.fill_(2.0)
    folder = tmp_path_factory.mktemp("onnx")
    save_onnx(encoder, folder)
    return encoder, folder


@torch.no_grad()
def test_an_export_of_three_towers_is_read_again(exported):
    encoder, folder = exported
    graphs = load_multimodal_encoder(folder)
    assert list(graphs.towers) == ["text", "sound", "sensors"]
    assert graphs.towers["sound"].mel == encoder.towers["sound"].mel
    given = values(encoder.towers["sound"])
    expected = encoder.encode_signal("sound", given)
    torch.testing.assert_close(graphs.encode_signal("sound", given), expected)
    tokens = torch.ones(2, 5, dtype=torch.int64)
    torch.testing.assert_close(graphs.encode_text(tokens), encoder.encode_text(tokens))
    assert graphs.logit_scale == pytest.approx(float(encoder.logit_scale.detach()))
    assert float(graphs.log_pair_scales["sound:text"]) == pytest.approx(2.0)
    assert graphs.towers["sensors"].mel is None
    with pytest.raises(ConfigError, match="neither trained"):
        graphs.train()


def test_spectrograms_are_described_in_the_graph(exported):
    encoder, folder = exported
    session = onnxruntime.InferenceSession(folder / "sound.onnx")
    facts = json.loads(session.get_modelmeta().custom_metadata_map["clipkit"])
    assert facts == json.loads((folder / "preprocessing.json").read_text())
    assert facts["modalities"]["sound"]["shape"] == [16, 40]
    assert facts["modalities"]["sound"]["mel"] == encoder.towers["sound"].mel.config()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_lower_precisions(precision, tmp_path):
    encoder = MultimodalEncoder({"sound": build("tcn_causal")}).eval()
    save_onnx(encoder, tmp_path, precision=precision)
    check_onnx(encoder, tmp_path, 1e-4, precision)


@pytest.mark.parametrize("facts", ["{", '{"modalities": 3, "pair_scales": {}}', "[]"])
def test_damaged_facts_are_named(facts, tmp_path):
    (tmp_path / "preprocessing.json").write_text(facts)
    with pytest.raises(CheckpointError, match=r"preprocessing.json: expected the file that clip"):
        load_multimodal_encoder(tmp_path)
