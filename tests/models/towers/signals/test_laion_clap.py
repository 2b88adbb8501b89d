"""Weights of laion_clap, in small files under the names of its training code."""

from __future__ import annotations

import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import ClapAudioConfig, ClapAudioModelWithProjection

from clipkit.errors import CheckpointError
from clipkit.models import ClapSoundTower
from clipkit.models.files.state_dicts import read_state_dict
from clipkit.models.towers.signals.laion_clap import architecture_of, read_audio_weights
from tests.helpers.sound_towers import HTSAT, mel, values

NAMES = {
    "batch_norm.": "bn0.",
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
    ".attention.output.dense.": ".attn.proj.",
    ".attention.self.relative_position": ".attn.relative_position",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
}


def laion_names(state):
    """Rename, and join queries, keys and values, as the training code stores them."""
    renamed = {}
    for name, value in state.items():
        if name.startswith("audio_projection."):
            number = {"linear1": "0", "linear2": "2"}[name.split(".")[1]]
            renamed[f"module.audio_projection.{number}.{name.split('.')[2]}"] = value
            continue
        own = name.removeprefix("audio_model.audio_encoder.")
        if ".attention.self.key." in own or ".attention.self.value." in own:
            continue
        if ".attention.self.query." in own:
            keys = [name.replace("query", part) for part in ("query", "key", "value")]
            value = torch.cat([state[key] for key in keys])
            own = own.replace(".attention.self.query.", ".attn.qkv.")
        for theirs, laions in NAMES.items():
            own = own.replace(theirs, laions)
        renamed[f"module.audio_branch.{own}"] = value
    return renamed


@pytest.fixture(scope="module")
def laion():
    """A model of transformers, and its weights under the other names, with more that is unused."""
    torch.manual_seed(3)
    model = ClapAudioModelWithProjection(ClapAudioConfig(**HTSAT)).eval()
    norm = model.audio_model.audio_encoder.batch_norm
    torch.nn.init.normal_(norm.running_mean)
    torch.nn.init.uniform_(norm.running_var, 0.5, 2.0)
    weights = laion_names(model.state_dict())
    weights |= {
        "module.logit_scale_a": torch.tensor(1.0),
        "module.text_branch.embeddings.weight": torch.zeros(3, 4),
        "module.audio_branch.tscam_conv.weight": torch.zeros(5, 32, 1, 1),
        "module.audio_branch.logmel_extractor.melW": torch.zeros(513, 16),
        # folded to 64 pixels: patches of 4, in windows of 4, are 16 windows
        "module.audio_branch.layers.0.blocks.1.attn_mask": torch.zeros(16, 16, 16),
    }
    return model, weights


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@torch.no_grad()
def test_the_file_embeds_as_the_model(suffix, laion, tmp_path):
    model, weights = laion
    path = tmp_path / f"clap{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 3, "name": "clap", "state_dict": weights}, path)
    else:
        save_file({name: value.contiguous() for name, value in weights.items()}, path)
    tower = ClapSoundTower(str(path), mel=mel(16, 200)).eval()
    assert tower.embedding_dim == 24
    given = values(tower)
    expected = model(input_features=given.transpose(1, 2)[:, None]).audio_embeds
    found = torch.nn.functional.normalize(tower(given))
    torch.testing.assert_close(found, torch.nn.functional.normalize(expected))
    again = ClapSoundTower(**tower.config())  # needs no file
    again.load_state_dict(tower.state_dict())
    torch.testing.assert_close(again.eval()(given), tower(given))


def test_random_weights_of_the_same_architecture(laion, tmp_path):
    torch.save(laion[1], tmp_path / "clap.pt")
    tower = ClapSoundTower(
        str(tmp_path / "clap.pt"), 12, pretrained=False, projection="linear", mel=mel(16, 100)
    )
    stored = laion[1]["module.audio_branch.patch_embed.proj.weight"]
    assert tower.trunk.audio_encoder.patch_embed.proj.weight.shape == stored.shape
    assert not torch.equal(tower.trunk.audio_encoder.patch_embed.proj.weight, stored)


def without(weights, part):
    return {name: value for name, value in weights.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda w: {"visual.proj": torch.zeros(2)}, r"weights of laion_clap.*got visual.proj"),
        (lambda w: {}, "got none; name a folder"),
        (lambda w: without(w, "patch_embed.proj"), "audio branch.*patch_embed.proj.weight"),
        (lambda w: without(w, "layers.1.blocks.1.attn.qkv"), r"6 missing \(audio_model"),
        (lambda w: without(w, "layers"), "complete audio branch"),
        (lambda w: {n: v[:1] if n.endswith("norm.weight") else v for n, v in w.items()},
         "of another shape"),
    ],
)  # fmt: skip
def test_files_of_other_models_are_refused(change, message, laion, tmp_path):
    torch.save(change(laion[1]), tmp_path / "clap.pt")
    with pytest.raises(CheckpointError, match=message):
        ClapSoundTower(str(tmp_path / "clap.pt"), mel=mel(16, 200))


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="there is no such checkpoint"):
        ClapSoundTower(str(tmp_path / "none.pt"))
    (tmp_path / "clap.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match="expected a complete checkpoint"):
        ClapSoundTower(str(tmp_path / "clap.safetensors"))


def older_names(content, path):
    """Write a file as numpy 1 names its parts; the names have one letter less."""
    torch.save(content, path)
    new, old = b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n"
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    assert any(new in data or old in data for data in members.values())
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data.replace(new, old))


@pytest.mark.parametrize("write", [torch.save, older_names])
def test_numbers_of_numpy_in_a_file_are_left_out(write, laion, tmp_path):
    """As in the published files, which contain the metrics of their run."""
    before = set(torch.serialization.get_safe_globals())
    facts = {"best": np.float64(0.5), "epoch": np.int64(3), "recalls": np.arange(3.0)}
    write({**facts, "state_dict": {**laion[1], "module.best": np.float32(1.0)}}, tmp_path / "a.pt")
    assert read_audio_weights(str(tmp_path / "a.pt")).keys() == {
        name.removeprefix("module.") for name in laion[1] if "audio_" in name
    }
    assert set(torch.serialization.get_safe_globals()) == before


def test_what_else_a_file_calls_is_refused(tmp_path):
    class Hostile:
        def __reduce__(self):
            return np.load, ("elsewhere",)

    torch.save({"state_dict": {}, "best": Hostile()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="expected a complete checkpoint"):
        read_state_dict(tmp_path / "a.pt")


def test_parts_of_numpy_that_a_program_allows_are_its_own(tmp_path):
    torch.save({"a": torch.ones(1), "b": np.float64(0.5)}, tmp_path / "a.pt")
    scalar = np.float64(0.5).__reduce__()[0]
    own = [scalar, np.dtype, np.dtypes.Float64DType]
    with torch.serialization.safe_globals(own):
        assert read_state_dict(tmp_path / "a.pt").keys() == {"a"}
        assert torch.load(tmp_path / "a.pt")["b"] == 0.5


def test_the_size_of_the_input_follows_from_the_masks_of_any_stage(laion, caplog):
    own = {name.removeprefix("module."): value for name, value in laion[1].items()}
    first = "audio_branch.layers.0.blocks.1.attn_mask"
    assert architecture_of(own, "a.pt")["spec_size"] == 64
    second = {**without(own, "attn_mask"), first.replace("0", "1", 1): torch.zeros(4, 16, 16)}
    assert architecture_of(second, "a.pt")["spec_size"] == 64
    assert not caplog.records
    assert architecture_of(without(own, "attn_mask"), "a.pt")["spec_size"] == 256
    assert "a.pt: has no masks of windows" in caplog.text
