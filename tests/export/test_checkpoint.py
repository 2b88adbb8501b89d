"""Exports from Python, without the command line."""

from __future__ import annotations

import pytest
import torch
from huggingface_hub import ModelCard

from clipkit.cli.export import command
from clipkit.errors import ConfigError
from clipkit.export import FORMATS, export_checkpoint, export_encoder
from clipkit.export.checkpoint import replaced_folder
from clipkit.export.image_processor import image_processor_options
from clipkit.models import load_encoder
from clipkit.models.lora import add_lora
from tests.helpers import naflex
from tests.helpers.checkpoints import assert_equal, write_checkpoint
from tests.helpers.tiny_models import captions, encoder, pixels


def test_checkpoint_is_exported_and_loaded(tmp_path):
    ours = encoder()
    path = write_checkpoint(tmp_path / "last.ckpt", ours)
    exported = export_checkpoint(path, tmp_path / "out", "safetensors", license="mit")
    assert exported.reader == f"clipkit.models.load_encoder('{tmp_path}/out')"
    assert_equal(load_encoder(exported.folder), ours)
    assert ModelCard.load(tmp_path / "out/README.md").data.license == "mit"


@torch.no_grad()
def test_encoder_in_memory_is_not_changed(tmp_path):
    pytest.importorskip("peft")
    ours = encoder()
    add_lora(ours.image_tower, rank=2)
    ours.train()
    for name, parameter in ours.named_parameters():
        if "lora" in name:
            parameter.normal_()
    before = {name: value.clone() for name, value in ours.state_dict().items()}
    exported = export_encoder(ours, tmp_path / "out", "safetensors")
    assert ours.training
    assert ours.state_dict().keys() == before.keys()
    merged = load_encoder(exported.folder)
    ours.eval()
    images = ours.normalize(pixels(2, 32))
    torch.testing.assert_close(merged.encode_image(images), ours.encode_image(images))
    torch.testing.assert_close(merged.encode_text(captions(2)), ours.encode_text(captions(2)))


def test_unknown_format_is_named_before_the_model_is_read(tmp_path):
    with pytest.raises(ConfigError, match=r"got 'openclip'; did you mean 'open_clip'\?"):
        export_checkpoint(tmp_path / "none.ckpt", tmp_path / "out", "openclip")


def test_command_offers_every_format():
    assert command.FORMATS == FORMATS


def test_image_processor_of_each_resize_mode():
    tower = encoder()
    assert image_processor_options(tower)["size"] == {"shortest_edge": 32}
    tower.image_tower.resize_mode = "squash"
    assert image_processor_options(tower)["do_center_crop"] is False
    tower.image_tower.resize_mode = "longest"
    with pytest.raises(ConfigError, match="resize_mode 'longest'"):
        image_processor_options(tower)


def test_failed_export_keeps_the_previous_one(tmp_path):
    output = tmp_path / "out"
    with replaced_folder(output) as folder:
        (folder / "a").write_text("first")
    with pytest.raises(IsADirectoryError), replaced_folder(output) as folder:
        folder.write_text("half")
    assert (output / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_other_files_are_not_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").write_text("")
    with pytest.raises(ConfigError, match="'mine'"), replaced_folder(tmp_path / "out") as folder:
        (folder / "a").write_text("")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_a_tower_of_images_of_any_shape_has_no_processor_of_squares():
    with pytest.raises(ConfigError, match=r"reads images of any shape; .* safetensors instead"):
        image_processor_options(naflex.encoder())
