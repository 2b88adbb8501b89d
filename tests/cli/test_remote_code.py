"""A model's own Python code runs if the user said so, and never because a file says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from clipkit.cli.main import main
from clipkit.data.text.tokenizer_export import clip_in_transformers
from clipkit.data.text.tokenizers import tokenizer_from_name
from clipkit.errors import ConfigError
from clipkit.models import TransformersTextTower, from_open_clip, save_encoder
from clipkit.models.checkpoints.encoder import encoder_entry
from clipkit.remote_code import is_trusted, trust_remote_code
from tests.helpers import tiny
from tests.helpers.factories import write_shards
from tests.helpers.launched_here import launch_here
from tests.helpers.quick_sqlite import _no_waiting_for_databases  # noqa: F401

REFUSAL = "contains Python code"


@pytest.fixture
def mark(tmp_path, monkeypatch) -> Path:
    """The file that the code of every model here writes."""
    import transformers.dynamic_module_utils as dynamic

    monkeypatch.setattr(dynamic, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    return tmp_path / "ran"


@pytest.fixture(scope="module")
def tokenizer_files(tmp_path_factory) -> Path:
    """CLIP's tokenizer as transformers saves it."""
    folder = tmp_path_factory.mktemp("tokenizer")
    clip_in_transformers(16).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(tmp_path, mark, tokenizer_files) -> Path:
    """A folder in open_clip's layout whose tokenizer has code of its own."""
    folder = Path(shutil.copytree(tokenizer_files, tmp_path / "theirs"))
    path = folder / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings |= {"tokenizer_class": "Theirs", "pad_token": "!"}  # whose id is 0
    settings["auto_map"] = {"AutoTokenizer": ["theirs.Theirs", "theirs.Theirs"]}
    path.write_text(json.dumps(settings))
    (folder / "theirs.py").write_text(
        f"from transformers import CLIPTokenizer\nopen({str(mark)!r}, 'w').close()\n"
        "class Theirs(CLIPTokenizer):\n    pass\n"
    )
    write_config(folder, {"trust_remote_code": True})
    return folder


def write_config(folder: Path, options: dict[str, object]) -> None:
    text = {**tiny.CONFIG["text_cfg"], "hf_tokenizer_name": str(folder)}
    config = {**tiny.CONFIG, "text_cfg": {**text, "tokenizer_kwargs": options}}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config}))


@pytest.mark.parametrize("library", ["open_clip", "transformers"])
@pytest.mark.parametrize("options", [{"trust_remote_code": True}, {}])
def test_a_tokenizer_with_code_is_refused_by_name(folder, mark, library, options):
    write_config(folder, options)
    with pytest.raises(ConfigError, match=rf"{folder}.*{REFUSAL}.*--trust-remote-code"):
        tokenizer_from_name(f"{library}:{folder}", 16)
    assert not mark.exists()
    with trust_remote_code():
        tokenizer = tokenizer_from_name(f"{library}:{folder}", 16)
    assert mark.exists()
    assert tokenizer.encode("a dog")[0] == 49406
    assert not is_trusted()


@pytest.fixture
def model(tmp_path, folder) -> Path:
    """A model whose description names that tokenizer."""
    encoder = tiny.encoder()
    encoder.text_tower.tokenizer_name = f"open_clip:{folder}"
    save_encoder(encoder, tmp_path / "model")
    state = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    checkpoint = {"state_dict": state, "clipkit": encoder_entry(encoder)}
    torch.save(checkpoint, tmp_path / "model" / "last.ckpt")
    return tmp_path / "model"


@pytest.mark.parametrize(
    "command", ["evaluate", "embed", "interpolate", "export", "stats", "fit", "tune"]
)
def test_every_command_refuses_and_every_command_can_be_told(
    tmp_path, model, mark, folder, command, capsys, monkeypatch
):
    launch_here(monkeypatch)
    write_shards(tmp_path / "data", [8], label=False)
    shards, out = str(tmp_path / "data"), str(tmp_path / "out")
    checkpoint = str(model / "last.ckpt")
    run = [
        *["--model.encoder=clipkit.models.from_checkpoint", f"--model.encoder.path={checkpoint}"],
        *[word for word in tiny.words(tmp_path, tmp_path / "run")
          if not word.startswith(("--model.encoder", "--data.train"))],
        f"--data.train={shards}",
    ]  # fmt: skip
    (tmp_path / "space.yaml").write_text("data.seed: {type: categorical, choices: [0]}")
    words = {
        "evaluate": ["evaluate", "--model", str(model), "--data", shards, "--task", "retrieval"],
        "embed": ["embed", "--model", checkpoint, "--data", shards, "--output", out],
        "interpolate": ["interpolate", "--start", checkpoint, "--end", checkpoint,
                        "--measure", f"retrieval={shards}", "--points", "2", "--output", out],
        "export": ["export", "--model", checkpoint, "--format", "transformers", "--output", out],
        "stats": ["shards", "stats", "--tokenizer", f"open_clip:{folder}", shards],
        "fit": ["fit", *run],
        "tune": ["tune", *run, f"--data.val={shards}", "--trainer.val_check_interval=1",
                 "--space", str(tmp_path / "space.yaml"), "--metric", "val/loss",
                 "--direction", "minimize", "--output", out, "--trials", "1"],
    }[command]  # fmt: skip
    assert main(words) == 2
    assert REFUSAL in capsys.readouterr().err
    assert not mark.exists()
    status = main([*words, "--trust-remote-code"])
    assert mark.exists()
    assert status == 0 or command == "export"  # whose copy may need the code, and is refused then
    assert not is_trusted()


@pytest.fixture
def encoder_with_code(tmp_path, mark) -> Path:
    """A text encoder of transformers with code of its own."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    auto = {"AutoConfig": "theirs.TheirConfig", "AutoModel": "theirs.TheirModel"}
    (folder / "config.json").write_text(json.dumps({"model_type": "theirs", "auto_map": auto}))
    (folder / "theirs.py").write_text(
        f"from transformers import BertConfig, BertModel\nopen({str(mark)!r}, 'w').close()\n"
        "class TheirConfig(BertConfig):\n    model_type = 'theirs'\n"
        "class TheirModel(BertModel):\n    config_class = TheirConfig\n"
    )
    return folder


def test_a_text_tower_with_code_is_refused_by_name(encoder_with_code, mark):
    name = str(encoder_with_code)
    for pretrained in (True, False):
        with pytest.raises(ConfigError, match=rf"encoder'.*{REFUSAL}"):
            TransformersTextTower(name, embedding_dim=8, pretrained=pretrained, pad_id=0)
    text = {"hf_model_name": name, "hf_model_pretrained": False, "hf_tokenizer_name": name}
    with pytest.raises(ConfigError, match=rf"encoder'.*{REFUSAL}"):
        from_open_clip({**tiny.CONFIG, "text_cfg": text})
    assert not mark.exists()


def test_a_model_whose_code_is_hidden_behind_a_known_configuration(encoder_with_code, mark):
    """transformers knows the configuration, not the model: it would ask on the terminal."""
    content = {"model_type": "siglip_text_model", "auto_map": {"AutoModel": "theirs.TheirModel"}}
    (encoder_with_code / "config.json").write_text(json.dumps(content))
    text = {"hf_model_name": str(encoder_with_code), "hf_model_pretrained": False}
    with pytest.raises(ConfigError):
        from_open_clip({**tiny.CONFIG, "text_cfg": text})
    assert not mark.exists()
