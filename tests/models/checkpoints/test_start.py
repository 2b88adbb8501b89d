"""Starts from the weights of encoders with further towers."""

from __future__ import annotations

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models import (
    CrossAttentionFusion,
    DualEncoder,
    LinearLabelHead,
    MultimodalEncoder,
    from_checkpoint,
    from_multimodal_checkpoint,
    load_encoder,
    load_joint_encoder,
    load_multimodal_encoder,
    save_encoder,
    with_fusion,
    with_towers,
)
from clipkit.models.checkpoints.named import load_towers
from tests.helpers import tiny
from tests.helpers.checkpoints import write_checkpoint
from tests.helpers.series import CHANNELS, LENGTH, SeriesTower


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    heads = {"series": LinearLabelHead(16, 5)}
    model = with_towers(
        tiny.encoder(labels=True), {"series": SeriesTower(seed=3)}, heads, ["text:series"]
    )
    model.log_pair_scales["text:series"].data.fill_(1.5)
    folder = tmp_path_factory.mktemp("start")
    save_encoder(model, folder / "export")
    return model, write_checkpoint(folder / "last.ckpt", model), folder / "export"


def test_all_towers_start_from_the_weights(saved, caplog):
    model, checkpoint, _ = saved
    started = from_multimodal_checkpoint(checkpoint)
    assert started.training
    assert "starting from the raw weights" in caplog.text
    assert_same(started, model)


def assert_same(first, second):
    ours, theirs = first.state_dict(), second.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_a_new_head_replaces_that_of_its_tower_alone(saved):
    model, _, export = saved
    head = LinearLabelHead(16, 7)
    own = {name: value.clone() for name, value in head.state_dict().items()}
    started = from_multimodal_checkpoint(export, {"series": head})
    assert started.heads["series"].num_classes == 7
    assert all(torch.equal(value, own[name]) for name, value in head.state_dict().items())
    assert torch.equal(started.label_head.linear.weight, model.label_head.linear.weight)
    values = torch.randn(2, CHANNELS, LENGTH)
    assert torch.equal(
        started.encode_signal("series", values), model.encode_signal("series", values)
    )
    assert started.log_pair_scales["text:series"] == 1.5
    other = from_multimodal_checkpoint(export, {"image": LinearLabelHead(16, 3)})
    assert {name: head.num_classes for name, head in other.heads.items()} == {
        "image": 3, "series": 5,
    }  # fmt: skip
    with pytest.raises(ConfigError, match="names of towers"):
        from_multimodal_checkpoint(export, {"sound": head})


def test_the_other_kind_of_start(saved, tmp_path):
    _, checkpoint, _ = saved
    assert isinstance(from_checkpoint(checkpoint), DualEncoder)
    save_encoder(tiny.encoder(), tmp_path)
    with pytest.raises(CheckpointError, match=r"got DualEncoder; use from_checkpoint$"):
        from_multimodal_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"got DualEncoder; use load_encoder$"):
        load_multimodal_encoder(tmp_path)
    with pytest.raises(CheckpointError, match="load it with load_encoder, and add a fusion"):
        load_joint_encoder(tmp_path)


@pytest.fixture(scope="module")
def joint(saved, tmp_path_factory):
    """Image, text and series, of which two are fused, with a head and a scale."""
    fusion = CrossAttentionFusion(width=16, depth=1, num_heads=2)
    folder = tmp_path_factory.mktemp("joint")
    model = with_fusion(saved[0], fusion)
    save_encoder(model, folder)
    return model, folder


def test_a_joint_encoder_is_read_without_its_fusion(joint, caplog):
    model, folder = joint
    for read in (load_multimodal_encoder(folder), from_multimodal_checkpoint(folder)):
        assert isinstance(read, MultimodalEncoder)
        own, all_of_it = read.state_dict(), model.state_dict()
        assert own.keys() == {
            name for name in all_of_it
            if not name.startswith(("fusion.", "matching.", "token_inputs."))
        }  # fmt: skip
        assert all(torch.equal(value, all_of_it[name]) for name, value in own.items())
    assert read.training
    assert not caplog.records
    for load in (load_encoder, from_checkpoint):
        assert isinstance(load(folder), DualEncoder)
        lost = "using the image and text towers of image, text, series, without the label heads on"
        assert f"{lost} series" in caplog.text
        caplog.clear()


def test_errors_name_a_function_that_reads_the_file(saved, tmp_path):
    text = tiny.encoder().text_tower
    model = MultimodalEncoder({"text": text, "series": SeriesTower(seed=3)})
    save_encoder(model, tmp_path)
    for load, instead in (
        (load_encoder, "load_multimodal_encoder"),
        (from_checkpoint, "from_multimodal_checkpoint"),
    ):
        with pytest.raises(CheckpointError, match=f"got text, series; use {instead}$"):
            load(tmp_path)
    with pytest.raises(CheckpointError, match="load it with load_multimodal_encoder, and add"):
        load_joint_encoder(tmp_path)
    assert list(load_multimodal_encoder(tmp_path).towers) == ["text", "series"]


def test_a_model_by_name_has_all_towers(saved):
    model, checkpoint, _ = saved
    loaded = load_towers(checkpoint, "cpu")
    assert loaded.weights == "raw"
    assert_same(loaded.encoder, model)
