"""Models of the Hugging Face hub, by ``hf-hub:OWNER/NAME``, from a server on loopback."""

from __future__ import annotations

import json
import shutil

import open_clip
import pytest
import torch
from huggingface_hub import constants

from clipkit.data import OpenClipTokenizer, tokenizer_from_name
from clipkit.data.text.tokenizer_export import clip_in_transformers
from clipkit.errors import CheckpointError, ConfigError
from clipkit.export import export_encoder
from clipkit.models import (
    DualEncoder,
    LinearLabelHead,
    OpenClipImageTower,
    OpenClipTextTower,
    from_checkpoint,
    from_joint_checkpoint,
    from_open_clip,
    load_encoder,
    load_joint_encoder,
    load_model,
    load_multimodal_encoder,
    load_towers,
    save_encoder,
)
from clipkit.models.checkpoints.encoder import encoder_entry
from clipkit.training.finetune.facts import inspect_model
from tests.helpers import joint as joint_helper
from tests.helpers.checkpoints import assert_equal
from tests.helpers.hub import Repository
from tests.helpers.tiny_models import TEXT, config, encoder

CLIP_TEXT = {**TEXT, "vocab_size": 49408}
NAME = "hf-hub:me/tiny"


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "model"
    export_encoder(encoder(text=CLIP_TEXT), folder)
    return folder


@pytest.fixture
def folder(hub, exported, tmp_path):
    """An export in open_clip's layout, which the hub has as me/tiny."""
    folder = tmp_path / "export"
    shutil.copytree(exported, folder)
    hub.add("me/tiny", folder)
    return folder


def test_every_function_that_takes_a_name(hub, folder):
    ours, commit = load_encoder(folder), hub.repositories["me/tiny"].refs["main"]
    for loaded in (
        from_open_clip(NAME),
        load_encoder(NAME),
        load_model(NAME, "cpu").encoder,
        from_checkpoint(NAME),
        load_encoder(f"{NAME}@{commit}"),
        DualEncoder(OpenClipImageTower(NAME), OpenClipTextTower(NAME), **ours.config()),
    ):
        assert_equal(loaded, ours)
    assert load_model(NAME, "cpu").weights is None
    # as open_clip reads it, too
    theirs = open_clip.create_model(NAME).eval()
    image = torch.zeros(1, 3, 32, 32)
    torch.testing.assert_close(theirs.encode_image(image, normalize=True), ours.encode_image(image))


def test_a_revision_is_kept(hub, folder, tmp_path):
    first = load_encoder(folder)
    with torch.no_grad():
        first.image_tower.visual.proj.mul_(-1)
    export_encoder(first, tmp_path / "second")
    repository = hub.repositories["me/tiny"]
    repository.refs["v1"] = repository.refs["main"]
    hub.add("me/tiny", tmp_path / "second")
    assert_equal(load_encoder(NAME), first)
    assert_equal(load_encoder(f"{NAME}@v1"), load_encoder(folder))
    assert_equal(load_encoder(f"{NAME}@{repository.refs['v1']}"), load_encoder(folder))


def test_all_formats_that_clipkit_reads(hub, tmp_path):
    ours = encoder()
    ours = DualEncoder(ours.image_tower, ours.text_tower, LinearLabelHead(24, 3))
    export_encoder(ours, tmp_path / "heads", "safetensors")
    hub.add("me/heads", tmp_path / "heads")
    assert_equal(load_encoder("hf-hub:me/heads"), ours)
    # weights that open_clip wrote before it knew safetensors
    export_encoder(encoder(), tmp_path / "old")
    state = open_clip.create_model(f"local-dir:{tmp_path / 'old'}").state_dict()
    torch.save(state, tmp_path / "old" / "open_clip_pytorch_model.bin")
    (tmp_path / "old" / "open_clip_model.safetensors").unlink()
    hub.add("me/old", tmp_path / "old")
    assert_equal(load_encoder("hf-hub:me/old"), encoder())
    assert_equal(load_encoder(tmp_path / "old"), encoder())


def test_all_towers_and_a_fusion(hub, tmp_path):
    joint = joint_helper.encoder()
    save_encoder(joint, tmp_path / "joint")
    hub.add("me/joint", tmp_path / "joint")
    name = f"hf-hub:me/joint@{hub.repositories['me/joint'].refs['main']}"
    for loaded in (
        load_joint_encoder(name),
        load_towers(name, "cpu").encoder,
        from_joint_checkpoint(name),
    ):
        torch.testing.assert_close(loaded.state_dict(), joint.state_dict(), check_dtype=False)
    towers = load_multimodal_encoder(name).towers
    assert list(towers) == list(joint.towers)
    for name, tower in towers.items():
        expected = joint.towers[name].state_dict()
        torch.testing.assert_close(tower.state_dict(), expected, check_dtype=False)


def test_the_cache_is_enough(hub, folder, monkeypatch):
    ours = load_encoder(NAME)
    commit = hub.repositories["me/tiny"].refs["main"]
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    before = len(hub.requests)
    assert_equal(load_encoder(NAME), ours)
    assert_equal(load_encoder(f"{NAME}@{commit}"), ours)
    assert len(hub.requests) == before
    with pytest.raises(ConfigError, match=r"hf-hub:me/other: .* not in the cache.*no network"):
        load_encoder("hf-hub:me/other")


def test_a_server_that_fails_does_not_hide_the_cache(hub, folder):
    ours = load_encoder(NAME)
    hub.broken["resolve"] = 500
    assert_equal(load_encoder(NAME), ours)
    assert_equal(from_open_clip(NAME), ours)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("hf-hub:", "expected hf-hub:OWNER/NAME or hf-hub:OWNER/NAME@REVISION"),
        ("hf-hub:tiny", "expected hf-hub:OWNER/NAME"),
        ("hf-hub:me/tiny@", "expected hf-hub:OWNER/NAME"),
        ("hf-hub:me/a/b", "expected hf-hub:OWNER/NAME"),
        ("hf-hub:me/..", "is no name of a repository"),
        ("hf-hub:me/none", r"no model 'me/none' that this user may read.*HF_TOKEN"),
        ("hf-hub:me/tiny@v9", "no branch, tag or commit 'v9'"),
        ("hf-hub:me/gated", "accept its conditions"),
        ("hf-hub:me/private", "no model 'me/private' that this user may read"),
        ("hf-hub:me/bert", r"clipkit_encoder.json or open_clip_config.json, .*no such file"),
        ("hf-hub:me/image", r"open_clip_config.json: unknown key 'architecture'"),
        ("hf-hub:me/half", r"open_clip_model.safetensors or open_clip_pytorch_model.bin"),
    ],
)
def test_errors_name_what_is_wrong(hub, folder, name, message):
    add = hub.repositories["me/tiny"]
    hub.add("me/gated", folder).gated = True
    hub.add("me/private", folder).private = True
    hub.add("me/bert", folder).commits[hub.repositories["me/bert"].refs["main"]] = {
        "config.json": b'{"model_type": "bert"}'
    }
    config = json.dumps({"architecture": "resnet50"}).encode()
    hub.add("me/image", folder).commit({"open_clip_config.json": config})
    half = hub.add("me/half", folder)
    half.commits[half.refs["main"]].pop("open_clip_model.safetensors")
    assert add.refs
    with pytest.raises(ConfigError) as caught:
        load_encoder(name)
    caught.match(f"^{name}.*{message}")
    if name != "hf-hub:me/bert":
        with pytest.raises(ConfigError, match=message):
            from_open_clip(name)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "expected a JSON object, got list"),
        ("{", "expected an open_clip configuration in JSON"),
        ('{"model_cfg": "ViT-B-32"}', "model_cfg: expected a dictionary, got 'ViT-B-32'"),
        ('{"model_cfg": {}, "preprocess_cfg": []}', r"preprocess_cfg: expected a dictionary"),
        ('{"model_cfg": {"embed_dim": 8}}', "has no 'vision_cfg'"),
        ('{"model_cfg": MODEL, "preprocess_cfg": {"mean": 5}}', "mean: expected 3 numbers, got 5"),
        ('{"model_cfg": MODEL, "preprocess_cfg": {"std": ["a"]}}', "std: expected 3 numbers"),
    ],
)
def test_damaged_configurations_are_named(hub, content, message):
    content = content.replace("MODEL", json.dumps(config()))
    hub.repositories["me/bad"] = Repository()
    hub.repositories["me/bad"].commit({"open_clip_config.json": content.encode()})
    with pytest.raises(ConfigError, match=message):
        load_encoder("hf-hub:me/bad")


def test_a_token_opens_a_private_model(hub, folder, monkeypatch):
    hub.add("me/private", folder).private = True
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    assert_equal(load_encoder("hf-hub:me/private"), load_encoder(folder))


def test_weights_of_another_architecture_and_wrong_options(hub, folder):
    with pytest.raises(ConfigError, match=r"'openai' is no file; .*hf-hub:OWNER/NAME@REVISION"):
        from_open_clip(NAME, "openai")
    with pytest.raises(CheckpointError, match="--weights"):
        load_model(NAME, "cpu", "average")
    hub.repositories["me/tiny"].commit({"open_clip_model.safetensors": b"no weights"})
    with pytest.raises(CheckpointError, match=r"open_clip_model\.safetensors"):
        load_encoder(NAME)


def test_the_tokenizer_comes_with_its_options(hub, tmp_path):
    tokens = tmp_path / "tokens"
    clip_in_transformers(16).save_pretrained(tokens)
    settings = json.loads((tokens / "tokenizer_config.json").read_text())
    (tokens / "tokenizer_config.json").write_text(json.dumps({**settings, "pad_token": "!"}))
    text = {
        **CLIP_TEXT,
        "hf_tokenizer_name": str(tokens),
        "tokenizer_kwargs": {"clean": "canonicalize"},
    }
    export_encoder(encoder(text=text), tmp_path / "export", "open_clip",
                   tokenizer=f"transformers:{tokens}")  # fmt: skip
    commit = hub.add("me/lower", tmp_path / "export").refs["main"]
    loaded = load_encoder("hf-hub:me/lower")
    assert loaded.text_tower.tokenizer_name == f"open_clip:hf-hub:me/lower@{commit}"
    theirs = open_clip.get_tokenizer("hf-hub:me/lower")
    wanted = [number for number in theirs("A Dog, a cat!")[0].tolist() if number]
    for name in (
        loaded.text_tower.tokenizer_name,
        load_encoder(tmp_path / "export").text_tower.tokenizer_name,
    ):
        assert tokenizer_from_name(name, 16).encode("A Dog, a cat!") == wanted
    assert OpenClipTokenizer("ViT-B-32", 16).encode("a dog a cat") == wanted
    # a checkpoint names it, and is read on a machine that has only the cache
    entry = encoder_entry(loaded)["encoder"]["init_args"]["text_tower"]["init_args"]
    assert entry["tokenizer_name"] == loaded.text_tower.tokenizer_name


def test_clip_vocabulary_needs_no_hub(hub, folder):
    assert load_encoder(NAME).text_tower.tokenizer_name == "open_clip:ViT-B-32"


def test_fine_tuning_starts_from_the_name(hub, folder):
    base = inspect_model(NAME)
    assert base.encoder == {
        "class_path": "clipkit.models.from_checkpoint",
        "init_args": {"path": NAME},
    }
    shutil.rmtree(folder)
    assert from_checkpoint(base.encoder["init_args"]["path"]).training
