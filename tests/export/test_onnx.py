"""Towers as ONNX graphs, run by onnxruntime."""

import importlib.util
import json
from copy import deepcopy

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.export.onnx import check_onnx, onnx_facts, save_onnx
from tests.helpers import naflex
from tests.helpers.tiny_models import RESNET, TEXT, captions, encoder, pixels

onnxruntime = pytest.importorskip("onnxruntime")
BOTH_WAYS = {**TEXT, "layers": 1, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Convolutions, attention in both directions, a bias; plain towers are in the other tests."""
    model = encoder(RESNET, BOTH_WAYS, init_logit_bias=-10, custom_text=True)
    folder = tmp_path_factory.mktemp("onnx")
    save_onnx(model, folder, "open_clip:ViT-B-32")
    return model, folder


def embed(path, **inputs):
    session = onnxruntime.InferenceSession(path)
    return torch.from_numpy(session.run(None, {k: v.numpy() for k, v in inputs.items()})[0])


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 5])
def test_any_batch_and_length(exported, count):
    ours, folder = exported
    images = pixels(count, 32)
    found = embed(folder / "image.onnx", pixels=images)
    torch.testing.assert_close(found, ours.encode_image(images), atol=1e-5, rtol=0)
    torch.testing.assert_close(found.norm(dim=-1), torch.ones(count))
    for length in (16, 10):
        tokens = captions(count, length)
        found = embed(folder / "text.onnx", tokens=tokens)
        torch.testing.assert_close(found, ours.encode_text(tokens), atol=1e-5, rtol=0)
    check_onnx(ours, folder, 1e-4)


def test_preprocessing_travels_in_the_graphs(exported):
    ours, folder = exported
    for name in ("image.onnx", "text.onnx"):
        session = onnxruntime.InferenceSession(folder / name)
        facts = json.loads(session.get_modelmeta().custom_metadata_map["clipkit"])
        assert facts == onnx_facts(ours, "open_clip:ViT-B-32")
        assert facts["image"]["size"] == [32, 32]
        assert facts["image"]["mean"] == list(ours.image_tower.image_mean)
        assert facts["logit_bias"] == -10.0


@pytest.mark.parametrize("tower", ["image", "text"])
def test_other_weights_are_noticed(exported, tower):
    ours, folder = exported
    other = deepcopy(ours)
    with torch.no_grad():
        for parameter in getattr(other, f"{tower}_tower").parameters():
            parameter.mul_(1.5)
    with pytest.raises(CheckpointError, match=rf"{tower}\.onnx differ"):
        check_onnx(other, folder, 1e-4)


def test_missing_packages_are_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match=r"onnx, onnxscript, onnxruntime missing.*clipkit\[onnx\]"
    ):
        save_onnx(encoder(), tmp_path)


def test_a_tower_of_patches_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"reads images of one shape, this tower images of any"):
        save_onnx(naflex.encoder().eval(), tmp_path)
    assert not list(tmp_path.iterdir())
