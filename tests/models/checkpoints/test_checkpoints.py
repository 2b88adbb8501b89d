"""Encoders out of checkpoints and into files."""

import io
import json
import pickle
from pathlib import Path

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models import (
    DualEncoder,
    LinearLabelHead,
    TimmImageTower,
    from_open_clip,
    load_encoder,
    save_encoder,
    save_open_clip,
)
from clipkit.models.checkpoints.encoder import encoder_entry
from tests.helpers.checkpoints import assert_equal, write_checkpoint
from tests.helpers.tiny_models import TIMM_VIT, VIT, encoder


@pytest.fixture
def model():
    plain = encoder()
    torch.manual_seed(1)
    built = DualEncoder(plain.image_tower, plain.text_tower, LinearLabelHead(24, 5)).eval()
    torch.nn.init.normal_(built.label_head.linear.weight)
    built.log_logit_scale.data.fill_(1.5)
    return built


def test_encoder_of_a_training_checkpoint(model, tmp_path):
    loaded = load_encoder(write_checkpoint(tmp_path / "last.ckpt", model))
    assert not loaded.training
    assert_equal(loaded, model)


def test_loading_needs_neither_lightning_nor_the_network(model, tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "last.ckpt", model)
    import socket
    import sys

    def refuse(*args, **kwargs):
        raise AssertionError("no network")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setitem(sys.modules, "lightning", None)
    load_encoder(str(path))


def test_average_of_weights_by_its_prefix(model, tmp_path):
    state = {f"ema.{name}": value for name, value in model.state_dict().items()}
    path = write_checkpoint(tmp_path / "last.ckpt", encoder(), state_dict=state)
    torch.save({**torch.load(path), "clipkit": encoder_entry(model)}, path)
    assert_equal(load_encoder(path, prefix="ema."), model)
    with pytest.raises(CheckpointError, match=r"no weights whose names begin with 'encoder\.'"):
        load_encoder(path, prefix="encoder.")


def test_weights_that_do_not_fit_are_named(model, tmp_path):
    other = encoder({**VIT, "layers": 3}, embed_dim=16)
    state = {f"encoder.{name}": value for name, value in other.state_dict().items()}
    path = write_checkpoint(tmp_path / "last.ckpt", model, state_dict=state)
    with pytest.raises(CheckpointError) as caught:
        load_encoder(path)
    message = str(caught.value)
    assert "last.ckpt" in message
    assert "2 missing (label_head.linear.weight, label_head.linear.bias)" in message
    assert "12 unexpected (image_tower.visual.transformer.resblocks.2." in message
    assert "image_tower.visual.proj: expected (32, 24), got (32, 16)" in message


def test_files_that_are_no_checkpoints(model, tmp_path):
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        load_encoder(tmp_path / "nothing.ckpt")
    torn = tmp_path / "torn.ckpt"
    torn.write_bytes(write_checkpoint(tmp_path / "whole.ckpt", model).read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"torn\.ckpt: expected a complete checkpoint"):
        load_encoder(torn)
    weights = tmp_path / "weights.pt"
    torch.save(model.state_dict(), weights)
    with pytest.raises(CheckpointError, match="does not describe an encoder"):
        load_encoder(weights)
    with pytest.raises(CheckpointError, match=r"clipkit_encoder\.json"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content",
    [b"", b"hello", bytes(range(256)), b"PK\x03\x04abc", b"\x80\x02}q\x00(X", b"\xff" * 20],
)
def test_any_bytes_are_no_checkpoint(tmp_path, content, suffix):
    """Unpicklers raise KeyError, IndexError and others over text."""
    (tmp_path / f"some{suffix}").write_bytes(content)
    with pytest.raises(CheckpointError, match="expected a complete checkpoint"):
        load_encoder(tmp_path / f"some{suffix}")


def test_checkpoint_of_a_newer_version_is_refused(model, tmp_path):
    entry = {**encoder_entry(model), "format_version": 2}
    path = write_checkpoint(tmp_path / "last.ckpt", model, clipkit=entry)
    with pytest.raises(CheckpointError, match="version 2, this clipkit reads up to 1"):
        load_encoder(path)


class Trap:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (Path.touch, (Path("trapped"),))


def test_nothing_is_unpickled(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_checkpoint(tmp_path / "last.ckpt", model, trap=Trap())
    with pytest.raises(CheckpointError, match="plain types"):
        load_encoder(path)
    path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(CheckpointError, match="plain types"):
        load_encoder(path)
    assert not Path("trapped").exists()


def test_any_encoder_to_a_folder_and_back(model, tmp_path):
    timm = DualEncoder(TimmImageTower("test_resnet", 24, 32), model.text_tower, model.label_head)
    for name, each in (("plain", model), ("timm", timm.eval())):
        save_encoder(each, tmp_path / name)
        assert_equal(load_encoder(tmp_path / name), each)


@pytest.mark.parametrize("file", ["weights.pt", "weights.safetensors"])
def test_open_clip_weights_come_back_through_from_open_clip(file, tmp_path):
    model = encoder()
    save_open_clip(model, tmp_path / file)
    again = from_open_clip(str(tmp_path), pretrained=str(tmp_path / file))
    assert_equal(again, model)


def test_a_checkpoint_of_clipkit_as_open_clip_weights_says_what_to_do(model, tmp_path):
    path = write_checkpoint(tmp_path / "last.ckpt", model)
    with pytest.raises(CheckpointError, match="load_encoder"):
        from_open_clip({"embed_dim": 24, **_cfg(model)}, pretrained=str(path))


def _cfg(model):
    image, text = model.image_tower.config()["model"], model.text_tower.config()["model"]
    vision_cfg, text_cfg = image["model_cfg"]["vision_cfg"], text["model_cfg"]["text_cfg"]
    return {"vision_cfg": vision_cfg, "text_cfg": text_cfg}


def test_what_open_clip_cannot_express_is_refused_before_anything_is_written(model, tmp_path):
    timm = DualEncoder(TimmImageTower("test_resnet", 24, 32), model.text_tower)
    resized = encoder(TIMM_VIT)
    mixed = DualEncoder(encoder(quick_gelu=True).image_tower, model.text_tower)
    for each, message in (
        (timm, "image_tower: open_clip cannot express a TimmImageTower"),
        (resized, "only for 160 pixels, this one is built for 64"),
        (mixed, "quick_gelu"),
    ):
        with pytest.raises(ConfigError, match=message):
            save_open_clip(each, tmp_path / "out" / "weights.pt")
    assert not (tmp_path / "out").exists()


def test_description_in_the_checkpoint_is_plain(model):
    buffer = io.BytesIO()
    torch.save(encoder_entry(model), buffer)
    buffer.seek(0)
    assert torch.load(buffer, weights_only=True) == json.loads(json.dumps(encoder_entry(model)))
