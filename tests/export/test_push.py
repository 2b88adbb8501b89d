"""Exports that are uploaded to a hub on loopback."""

from __future__ import annotations

import shutil

import pytest
import torch
from huggingface_hub import ModelCard, constants

from clipkit.cli.main import main
from clipkit.errors import CheckpointError, ConfigError
from clipkit.export import export_encoder, push_to_hub
from clipkit.models import load_encoder
from tests.helpers.checkpoints import assert_equal, write_checkpoint
from tests.helpers.hub import TOKEN, Repository
from tests.helpers.tiny_models import encoder


@pytest.fixture
def logged_in(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    return hub


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    return export_encoder(encoder(), tmp_path_factory.mktemp("exported") / "out").folder


@pytest.fixture
def folder(exported, tmp_path):
    """A folder of its own with a copy of an export."""
    return shutil.copytree(exported, tmp_path / "out")


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Another model, and its export, which no test changes."""
    model = encoder(quick_gelu=True)
    with torch.no_grad():
        model.image_tower.visual.proj.mul_(-1)
    return model, export_encoder(model, tmp_path_factory.mktemp("other") / "out").folder


@pytest.mark.parametrize("format", ["open_clip", "safetensors"])
def test_what_was_pushed_is_loaded_by_name(logged_in, format, tmp_path):
    ours = encoder()
    folder = export_encoder(ours, tmp_path / "out", format).folder
    assert push_to_hub(folder, "me/tiny") == "hf-hub:me/tiny"
    assert logged_in.files("me/tiny") == {f.name: f.read_bytes() for f in folder.iterdir()}
    assert len(logged_in.repositories["me/tiny"].commits) == 1
    assert not logged_in.repositories["me/tiny"].private
    assert_equal(load_encoder("hf-hub:me/tiny"), ours)


def test_the_command(logged_in, tmp_path, capsys):
    path = write_checkpoint(tmp_path / "last.ckpt", encoder())
    words = ["export", "--model", str(path), "--format", "safetensors", "--license", "mit"]
    words += ["--output", str(tmp_path / "out"), "--push", "me/secret", "--private"]
    assert main(words) == 0
    reader = "clipkit.models.load_encoder('hf-hub:me/secret')"
    assert f"hf-hub:me/secret: uploaded; load it with {reader}" in capsys.readouterr().out
    assert logged_in.repositories["me/secret"].private
    card = ModelCard(logged_in.files("me/secret")["README.md"].decode())
    assert card.data.to_dict()["license"] == "mit"
    assert_equal(load_encoder("hf-hub:me/secret"), encoder())


def test_pushing_again_replaces_the_files(logged_in, folder, other):
    push_to_hub(folder, "me/tiny")
    logged_in.repositories["me/tiny"].commit({"photo.png": b"of the card", ".gitattributes": b""})
    model, again = other
    push_to_hub(again, "me/tiny")
    assert_equal(load_encoder("hf-hub:me/tiny"), model)
    assert logged_in.files("me/tiny")["photo.png"] == b"of the card"


@pytest.mark.parametrize("path", [".git/config", "sub/.git/HEAD", ".cache/huggingface/x.lock"])
def test_files_that_the_hub_never_gets_are_not_missed_there(logged_in, folder, path):
    (folder / path).parent.mkdir(parents=True)
    (folder / path).write_bytes(b"of a clone")
    push_to_hub(folder, "me/tiny")
    assert path not in logged_in.files("me/tiny")
    assert "README.md" in logged_in.files("me/tiny")


def test_a_repository_with_another_model_or_public_is_refused(logged_in, folder, tmp_path):
    push_to_hub(folder, "me/tiny")
    before = logged_in.files("me/tiny")
    other = export_encoder(encoder(), tmp_path / "heads", "safetensors").folder
    with pytest.raises(ConfigError, match=r"contains 'open_clip_config.json', .*nothing was"):
        push_to_hub(other, "me/tiny")
    with pytest.raises(ConfigError, match=r"exists and is public.*nothing was uploaded"):
        push_to_hub(folder, "me/tiny", private=True)
    assert logged_in.files("me/tiny") == before


def test_missing_and_wrong_tokens(hub, folder, monkeypatch):
    with pytest.raises(ConfigError, match=r"push me/tiny: no token found; log in with .hf auth"):
        push_to_hub(folder, "me/tiny")
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody_else")
    with pytest.raises(ConfigError, match=r"does not accept the token.*HF_TOKEN"):
        push_to_hub(folder, "me/tiny")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ConfigError, match=r"push you/tiny: the token may not write there"):
        push_to_hub(folder, "you/tiny")
    assert not hub.repositories
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"OfflineModeIsEnabled.*check the network"):
        push_to_hub(folder, "me/tiny")


@pytest.mark.parametrize("step", ["preupload", "/large/", "commit"])
def test_a_failed_upload_leaves_the_branch_as_it_was(logged_in, folder, other, step):
    push_to_hub(folder, "me/tiny")
    before = logged_in.files("me/tiny")
    logged_in.broken[step] = 400  # which is not tried again
    model, again = other
    with pytest.raises(ConfigError, match=r"push me/tiny: not completed: .*push again"):
        push_to_hub(again, "me/tiny")
    assert logged_in.files("me/tiny") == before
    logged_in.broken.clear()
    push_to_hub(again, "me/tiny")
    assert_equal(load_encoder("hf-hub:me/tiny"), model)


def test_a_hub_that_lost_a_file_is_noticed(logged_in, folder, monkeypatch):
    keep = Repository.commit
    monkeypatch.setattr(
        Repository, "commit", lambda self, files, ref="main": keep(self, {"README.md": b""}, ref)
    )
    with pytest.raises(CheckpointError, match=r"bytes on the hub, got"):
        push_to_hub(folder, "me/tiny")


@pytest.mark.parametrize("name", ["tiny", "me/tiny/x", "me/", "me/ti ny", "hf-hub:me/tiny"])
def test_malformed_names(hub, folder, name):
    with pytest.raises(ConfigError, match=f"expected OWNER/NAME, got '{name}'"):
        push_to_hub(folder, name)


def test_the_login_is_checked_before_the_model_is_read(hub, tmp_path, capsys):
    words = ["export", "--model", str(tmp_path / "none.ckpt"), "--output", str(tmp_path / "out")]
    assert main([*words, "--push", "me/tiny"]) == 2
    assert "no token found" in capsys.readouterr().err
    assert main([*words, "--private"]) == 2
    assert "--private: only with --push OWNER/NAME" in capsys.readouterr().err


def test_a_folder_that_is_no_export(logged_in, tmp_path):
    with pytest.raises(ConfigError, match="expected a folder that clipkit export wrote"):
        push_to_hub(tmp_path, "me/tiny")
    assert "me/tiny" not in logged_in.repositories
