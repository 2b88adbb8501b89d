"""Towers for sound and time as ONNX graphs, run by onnxruntime."""

from __future__ import annotations

import pytest
import torch

from clipkit.errors import CheckpointError
from clipkit.export.onnx import check_onnx, save_onnx
from clipkit.models import MultimodalEncoder, load_multimodal_encoder
from tests.helpers.onnx_programs import trace_once
from tests.helpers.sound_towers import build, values

onnxruntime = pytest.importorskip("onnxruntime")


BLOCKS = {
    "vit": lambda tower: tower.trunk.blocks,
    "clap": lambda tower: tower.trunk.audio_encoder.layers[1].blocks,  # shifted ones stay in [0]
    "whisper": lambda tower: tower.trunk.layers,
}


@pytest.mark.parametrize("name", BLOCKS)
@torch.no_grad()
def test_graphs_embed_as_the_towers_do(name, tmp_path):
    tower = build(name)
    del BLOCKS[name](tower)[1:]  # each further one takes as long to trace
    encoder = MultimodalEncoder({"sound": tower}).eval()
    save_onnx(encoder, tmp_path)
    check_onnx(encoder, tmp_path, 1e-4)
    assert {path.name for path in tmp_path.glob("*.onnx")} == {"sound.onnx"}
    session = onnxruntime.InferenceSession(tmp_path / "sound.onnx")
    for size in (1, 5):
        given = values(encoder.towers["sound"], size)
        (found,) = session.run(["sound_embedding"], {"values": given.numpy()})
        expected = encoder.encode_signal("sound", given)
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-5, rtol=0)


def test_lower_precisions(tmp_path, monkeypatch):
    trace_once(monkeypatch)
    encoder = MultimodalEncoder({"sound": build("tcn_causal")}).eval()
    for precision in ("fp16", "int8"):
        save_onnx(encoder, tmp_path / precision, precision=precision)
        check_onnx(encoder, tmp_path / precision, 1e-4, precision)


@pytest.mark.parametrize("facts", ["{", '{"modalities": 3, "pair_scales": {}}', "[]"])
def test_damaged_facts_are_named(facts, tmp_path):
    (tmp_path / "preprocessing.json").write_text(facts)
    with pytest.raises(CheckpointError, match=r"preprocessing.json: expected the file that clip"):
        load_multimodal_encoder(tmp_path)
