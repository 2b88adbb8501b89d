"""``clipkit export``: what it writes is what open_clip and clipkit read."""

import argparse
import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from clipkit.cli.export import command as export
from clipkit.errors import CheckpointError, ConfigError
from clipkit.evaluation import Retrieval
from clipkit.models import DualEncoder, LinearLabelHead, TimmImageTower, load_encoder
from tests.helpers.checkpoints import assert_equal, write_checkpoint
from tests.helpers.factories import write_shards
from tests.helpers.open_clip_names import named_config
from tests.helpers.tiny_models import (
    RESNET,
    TEXT,
    TIMM_CONV,
    VIT,
    captions,
    config,
    encoder,
    pixels,
)

BOTH_WAYS = {**TEXT, "no_causal_mask": True, "pool_type": "last", "proj_bias": True}
CASES = {
    "plain": {},
    "quick GELU": {"quick_gelu": True},
    "custom text": {"custom_text": True},
    "sigmoid": {"text": BOTH_WAYS, "init_logit_bias": -10, "custom_text": True},
    "bias of the projection": {"text": {**TEXT, "proj_bias": True}},
    "class token": {"text": {**TEXT, "embed_cls": True}},
    "ResNet": {"vision": RESNET},
    "timm": {"vision": TIMM_CONV},
}


def run(*words):
    parser = argparse.ArgumentParser()
    export.add_parser(parser.add_subparsers())
    args = parser.parse_args(["export", *map(str, words)])
    return args.run(args)


def exported(model, folder):
    path = write_checkpoint(folder / "last.ckpt", model)
    assert run("--model", path, "--output", folder / "out") == 0
    return folder / "out"


@torch.no_grad()
def assert_same_embeddings(ours, theirs):
    size = ours.image_tower.image_size
    images, tokens = ours.normalize(pixels(2, size)), captions(2)
    torch.testing.assert_close(
        ours.encode_image(images), theirs.encode_image(images, normalize=True), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(
        ours.encode_text(tokens), theirs.encode_text(tokens, normalize=True), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(ours.logit_scale.log(), theirs.logit_scale)
    if ours.logit_bias is not None:
        torch.testing.assert_close(ours.logit_bias, theirs.logit_bias)


@pytest.mark.parametrize("case", CASES)
def test_open_clip_reads_the_folder(case, tmp_path):
    ours = encoder(**CASES[case])
    ours.log_logit_scale.data.fill_(1.25)
    folder = exported(ours, tmp_path)
    theirs, _, _ = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    assert_same_embeddings(ours, theirs.eval())
    assert_same_embeddings(load_encoder(folder), theirs)


@pytest.mark.parametrize("case", CASES)
def test_open_clip_reads_it_by_name(case, tmp_path):
    ours = encoder(**CASES[case])
    folder = exported(ours, tmp_path)
    content = json.loads((folder / "open_clip_config.json").read_text())
    name = f"clipkit-test-{tmp_path.name}"
    (tmp_path / f"{name}.json").write_text(json.dumps(content["model_cfg"]))
    weights = folder / "open_clip_model.safetensors"
    with named_config(tmp_path / f"{name}.json"):
        theirs, _, _ = open_clip.create_model_and_transforms(name, pretrained=str(weights))
    assert_same_embeddings(ours, theirs.eval())


def test_preprocessing_travels_with_the_weights(tmp_path):
    preprocess = {
        "mean": [0.1, 0.2, 0.3],
        "std": [0.4, 0.5, 0.6],
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    from clipkit.models import from_open_clip

    ours = from_open_clip({"model_cfg": config(), "preprocess_cfg": preprocess}).eval()
    folder = exported(ours, tmp_path)
    _, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    rng = np.random.default_rng(0)
    picture = Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8))
    squashed = np.asarray(picture.resize((32, 32), Image.Resampling.BILINEAR))
    by_ours = ours.normalize(torch.from_numpy(squashed.copy()).permute(2, 0, 1)[None])
    torch.testing.assert_close(transform(picture)[None], by_ours)


def test_label_head_is_left_out_for_open_clip_and_kept_in_safetensors(tmp_path):
    plain = encoder()
    model = DualEncoder(plain.image_tower, plain.text_tower, LinearLabelHead(24, 5)).eval()
    folder = exported(model, tmp_path)
    theirs = open_clip.create_model(f"local-dir:{folder}").eval()
    assert_same_embeddings(model, theirs)
    own = tmp_path / "own"
    run("--model", tmp_path / "last.ckpt", "--format", "safetensors", "--output", own)
    assert_equal(load_encoder(own), model)


def test_the_card_lists_the_classes(tmp_path):
    plain = encoder()
    model = DualEncoder(plain.image_tower, plain.text_tower, LinearLabelHead(24, 3))
    model.label_head.class_names = ("cat", "", "dog|wolf")
    card = (exported(model, tmp_path) / "README.md").read_text()
    assert "label head of 3 classes, which is not part of these files. By number:" in card
    assert "not part of these files: label head on image." in card
    assert "| 0 | cat |\n| 2 | dog/wolf |" in card
    path = tmp_path / "last.ckpt"
    assert run("--model", path, "--output", tmp_path / "own", "--format", "safetensors") == 0
    assert "label head of 3 classes. By number:" in (tmp_path / "own" / "README.md").read_text()
    assert load_encoder(tmp_path / "own").label_head.class_names == ("cat", "", "dog|wolf")


def test_towers_that_open_clip_does_not_have(tmp_path):
    image = TimmImageTower("test_resnet", 24, 32)
    model = DualEncoder(image, encoder().text_tower).eval()
    path = write_checkpoint(tmp_path / "last.ckpt", model)
    with pytest.raises(ConfigError, match="--format safetensors"):
        run("--model", path, "--output", tmp_path / "out")
    run("--model", path, "--format", "safetensors", "--output", tmp_path / "out")
    assert_equal(load_encoder(tmp_path / "out"), model)


def test_embeddings_that_differ_are_reported(tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "last.ckpt", encoder())
    create = open_clip.create_model

    def disturbed(name):
        model = create(name)
        model.text_projection.data[0] += 1
        return model

    monkeypatch.setattr(open_clip, "create_model", disturbed)
    with pytest.raises(CheckpointError, match="text embeddings differ"):
        run("--model", path, "--output", tmp_path / "out")
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_an_export_again_replaces_the_former_one(tmp_path):
    exported(encoder(), tmp_path)
    ours = encoder()
    ours.log_logit_scale.data.fill_(0.5)
    folder = exported(ours, tmp_path)
    names = {"open_clip_config.json", "open_clip_model.safetensors", "README.md"}
    assert {file.name for file in folder.iterdir()} == names
    assert_same_embeddings(ours, open_clip.create_model(f"local-dir:{folder}").eval())


def test_output_that_is_a_file_is_refused(tmp_path):
    path = write_checkpoint(tmp_path / "last.ckpt", encoder(VIT))
    with pytest.raises(ConfigError, match="expected a folder, got the file"):
        run("--model", path, "--output", path)


def test_other_files_are_refused_before_the_model_is_measured(tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "last.ckpt", encoder())
    (tmp_path / "out" / "photos").mkdir(parents=True)
    monkeypatch.setattr(Retrieval, "run", lambda *_: pytest.fail("measured"))
    write_shards(tmp_path / "data", [2])
    words = ("--measure", tmp_path / "data", "--format", "onnx", "--output", tmp_path / "out")
    with pytest.raises(ConfigError, match="contains 'photos'"):
        run("--model", path, *words)


def test_folder_of_other_files_is_refused_before_the_model_is_read(tmp_path):
    (tmp_path / "out" / "photos").mkdir(parents=True)
    with pytest.raises(ConfigError, match="contains 'photos'"):
        run("--model", tmp_path / "none.ckpt", "--output", tmp_path / "out")
