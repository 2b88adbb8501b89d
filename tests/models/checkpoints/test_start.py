"""Starts from the weights of encoders with further towers."""

from __future__ import annotations

import pytest
import torch

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models import (
    DualEncoder,
    LinearLabelHead,
    from_checkpoint,
    from_multimodal_checkpoint,
    save_encoder,
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
    with pytest.raises(CheckpointError, match="expected a MultimodalEncoder, got DualEncoder"):
        from_multimodal_checkpoint(tmp_path)


def test_a_model_by_name_has_all_towers(saved):
    model, checkpoint, _ = saved
    loaded = load_towers(checkpoint, "cpu")
    assert loaded.weights == "raw"
    assert_same(loaded.encoder, model)
