"""Commands with a model of the Hugging Face hub, from a server on loopback."""

from __future__ import annotations

import json

import pytest
import yaml

from clipkit.cli.main import main
from clipkit.export import export_encoder
from clipkit.models import load_encoder
from tests.helpers import tiny
from tests.helpers.factories import image_bytes, write_shards

NAME = "hf-hub:me/tiny"


@pytest.fixture
def folder(hub, tmp_path):
    """An export in open_clip's layout, which the hub has as me/tiny."""
    export_encoder(tiny.encoder(), tmp_path / "export")
    hub.add("me/tiny", tmp_path / "export")
    return tmp_path / "export"


def test_commands_take_the_name(folder, tmp_path, capsys):
    write_shards(tmp_path / "data", [6])
    data, out = str(tmp_path / "data"), tmp_path / "out"
    words = ["--model", NAME, "--data", data, "--device", "cpu"]
    evaluate = ["evaluate", "--task", "retrieval", "--output", str(out / "m.json")]
    assert main([*evaluate, *words]) == 0
    assert json.loads((out / "m.json").read_text())["model"] == NAME
    assert main(["embed", *words, "--output", str(out / "embedded")]) == 0
    export = ["export", "--model", NAME, "--format", "safetensors", "--output"]
    assert main([*export, str(out / "exported")]) == 0
    copy, ours = load_encoder(out / "exported"), load_encoder(folder)
    assert {name: value.tolist() for name, value in copy.state_dict().items()} == {
        name: value.tolist() for name, value in ours.state_dict().items()
    }
    mixed = ["interpolate", "--start", NAME, "--end", str(folder), "--keep", "0.5"]
    assert main([*mixed, "--output", str(out / "mixed")]) == 0
    capsys.readouterr()
    assert main([*evaluate, *words[2:], "--model", "hf-hub:me/none"]) == 2
    assert "hf-hub:me/none: the hub has no model 'me/none'" in capsys.readouterr().err


def test_fine_tuning_writes_a_configuration_that_names_it(folder, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("red", "blue"):
        (photos / f"{name}.jpg").write_bytes(image_bytes(name))
    (photos / "captions.csv").write_text("image,caption\nred.jpg,a red one\nblue.jpg,a blue one\n")
    words = ["finetune", "--train", str(photos / "captions.csv"), "--model", NAME, "--print"]
    assert main([*words, "--output", str(tmp_path / "run")]) == 0
    written = capsys.readouterr().out
    encoder = yaml.safe_load(written[written.index("model:") :])["model"]["encoder"]
    assert encoder["init_args"]["path"] == NAME
    assert main(["fit", "-c", str(tmp_path / "run" / "finetune.yaml"), "--print_config"]) == 0


def test_a_run_starts_from_it(hub, folder, shards, tmp_path):
    words = [
        word for word in tiny.words(shards, tmp_path / "run") if "model.encoder.name" not in word
    ]
    checkpoint = tmp_path / "run" / "last.ckpt"
    status = main(["fit", *words, f"--model.encoder.name={NAME}", "--trainer.max_steps=1",
                   "--trainer.enable_checkpointing=true",
                   "--trainer.callbacks+=clipkit.training.callbacks.SaveCheckpoint"])  # fmt: skip
    assert status == 0
    hub.repositories.clear()  # what was trained is read without the hub
    assert_shapes(load_encoder(checkpoint), load_encoder(folder))


def assert_shapes(first, second):
    assert {name: value.shape for name, value in first.state_dict().items()} == {
        name: value.shape for name, value in second.state_dict().items()
    }
