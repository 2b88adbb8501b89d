"""Models by name, from Python."""

from __future__ import annotations

import json

import pytest

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models import load_model, save_encoder
from tests.helpers.checkpoints import assert_equal, write_checkpoint
from tests.helpers.tiny_models import config, encoder


def test_checkpoint_export_and_open_clip_configuration(tmp_path):
    ours = encoder()
    path = write_checkpoint(tmp_path / "last.ckpt", ours)
    save_encoder(ours, tmp_path / "export")
    for name in (path, tmp_path / "export"):
        loaded = load_model(name, "cpu")
        assert_equal(loaded.encoder, ours)
        assert not loaded.encoder.training
    assert load_model(path, "cpu").weights == "raw"
    assert load_model(tmp_path / "export", "cpu").weights is None
    (tmp_path / "tiny.json").write_text(json.dumps(config()))
    assert load_model(tmp_path / "tiny.json", "cpu").encoder.embedding_dim == ours.embedding_dim


def test_names_and_devices_that_do_not_exist(tmp_path):
    with pytest.raises(CheckpointError, match=r"none\.ckpt: no such file"):
        load_model(tmp_path / "none.ckpt", "cpu")
    with pytest.raises(ConfigError, match="open_clip has no model 'ViT-B-33'"):
        load_model("ViT-B-33", "cpu")
    with pytest.raises(ConfigError, match="'abacus' cannot be used"):
        load_model("ViT-B-32", "abacus")
