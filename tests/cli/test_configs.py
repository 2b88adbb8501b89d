"""Every shipped configuration runs, by the command that stands on top of it."""

from __future__ import annotations

import csv
import json
import math
import shlex
from pathlib import Path

import pytest
import torch
import yaml

from clipkit.cli.main import main
from tests.helpers import tiny
from tests.helpers.factories import COLORS

ROOT = Path(__file__).parents[2]
# tune/ and sweep/ hold no runs but spaces of values; tests/cli/test_tune.py runs them.
# domain_*.yaml need groups and series; tests/cli/test_domains.py runs them.
CONFIGS = sorted(
    path
    for path in (ROOT / "configs").rglob("*.yaml")
    if path.parent.name not in {"tune", "sweep"} and not path.name.startswith("domain_")
)
SERVICES = ("mlflow", "tensorboard", "trackio", "wandb")
"""Services, and their packages, some of which the tests may lack."""
# Deep enough for what the configurations lock or learn slower, and small enough for seconds.
# As large as the smallest image that a configuration trains on first.
ENCODER = {
    **tiny.CONFIG,
    "vision_cfg": {**tiny.CONFIG["vision_cfg"], "layers": 6, "image_size": 32},
}

BERT = {
    "model_type": "bert",
    "vocab_size": 49408,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 40,
}


def command_of(config: Path) -> list[str]:
    """The words of the command on top of a configuration, without ``clipkit``."""
    lines = [line.removeprefix("# ") for line in config.read_text().splitlines()]
    commands = [line for line in lines if line.startswith("clipkit fit ")]
    assert len(commands) == 1, f"{config}: expected one command on top, got {commands}"
    return shlex.split(commands[0])[1:]


def tiny_encoder(words: list[str]) -> list[str]:
    """What makes the configured encoder tiny, whichever way it is put together."""
    files = [word for word in words if word.endswith(".yaml")]
    models = [yaml.safe_load((ROOT / file).read_text()).get("model") for file in files]
    encoder = next(model["encoder"] for model in models if model)
    data = [yaml.safe_load((ROOT / file).read_text()).get("data", {}) for file in files]
    flags = []
    if any("transform" in part.get("samples", {}) for part in data):
        flags.append(f"--data.samples.transform.size={ENCODER['vision_cfg']['image_size']}")
    if "head" in encoder["init_args"]:
        nested = "--model.encoder.encoder.encoder"
        name, num_classes = json.dumps(ENCODER), "--model.encoder.head.num_classes=4"
        return [
            *flags, f"{nested}=clipkit.models.from_open_clip", f"{nested}.name={name}", num_classes,
        ]  # fmt: skip
    if "fusion" in encoder["init_args"]:
        nested = "--model.encoder.encoder"
        name = json.dumps(ENCODER)
        return [*flags, f"{nested}=clipkit.models.from_open_clip", f"{nested}.name={name}"]
    if "image_tower" in encoder["init_args"]:
        for tower in ("image_tower", "text_tower"):
            flags += tiny_tower(tower, encoder["init_args"][tower])
        return flags
    flags += [f"--model.encoder.name={json.dumps(ENCODER)}", "--model.encoder.pretrained=null"]
    if "label_head" in encoder["init_args"]:
        flags.append(f"--model.encoder.label_head.embedding_dim={ENCODER['embed_dim']}")
    return flags


def tiny_tower(name: str, tower: dict) -> list[str]:
    """What makes one tower of two tiny, whatever library it comes from."""
    option = f"--model.encoder.{name}"
    kind = tower["class_path"].rpartition(".")[2]
    pixels = str(ENCODER["vision_cfg"]["image_size"])
    if kind == "TimmImageTower":
        small = {
            "model": "test_vit",
            "pretrained": "false",
            "image_size": pixels,
            "embedding_dim": "64",
        }
    elif kind == "TimmNaFlexTower":
        small = {
            "model": "test_vit",
            "patch_size": "8",
            "max_tokens": "12",
            "embedding_dim": str(ENCODER["embed_dim"]),
        }
    elif kind == "TransformersTextTower":
        small = {
            "model": json.dumps(BERT),
            "pretrained": "false",
            "embedding_dim": "64",
            "context_length": "16",
            "pad_id": "0",
            "tokenizer_name": "open_clip:ViT-B-32",
        }
    else:
        small = {"model": json.dumps(ENCODER)}
    return [f"{option}.{key}={value}" for key, value in small.items()]


def tiny_data(words: list[str], shards: Path) -> list[str]:
    """The tests' shards in the place of the configured data."""
    files = [word for word in words if word.endswith(".yaml")]
    data = [yaml.safe_load((ROOT / file).read_text()).get("data", {}) for file in files]
    flags = [f"--data.val={shards}/val/*.tar"]
    if any("long_caption" in json.dumps(part) for part in data):  # which these shards do not have
        flags.append('--data.validation.caption.fields={"color": 1.0}')
    if any("clipkit.data.Answers" in json.dumps(part) for part in data):
        answers = {"answers": [*COLORS], "field": "json:color"}
        fields = [{"class_path": "clipkit.data.Answers", "init_args": answers}]
        flags.append(f"--data.samples.fields={json.dumps(fields)}")
    mixtures = [part["mixture"] for part in data if "mixture" in part]
    if not mixtures:
        return [f"--data.train={shards}/train/*.tar", *flags]
    sources = [
        {**source, "urls": f"{shards}/train/{number:05d}.tar"}
        for number, source in enumerate(mixtures[0]["sources"])
    ]
    return [f"--data.mixture.sources={json.dumps(sources)}", *flags]


@pytest.fixture(scope="module")
def few(tmp_path_factory) -> Path:
    """Shards for two steps; the epoch ends with them, so that a validation follows."""
    return tiny.shards(tmp_path_factory.mktemp("few"), (4, 4), val=4)


def command(config: Path, few: Path, run: Path) -> list[str]:
    """The command on top of a configuration, made tiny."""
    words = command_of(config)
    return [
        *words,
        *tiny_encoder(words),
        "--model.schedule.warmup=1",
        *tiny_data(words, few),
        "--data.batch_size=4",
        "--data.num_workers=0",
        "--trainer.accelerator=cpu",
        "--trainer.devices=1",
        "--trainer.max_steps=2",
        "--trainer.log_every_n_steps=1",
        f"--trainer.default_root_dir={run}",
    ]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """The folder in which the command is called."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path


COMMANDS = {
    tuple(command_of(path)): path for path in CONFIGS if path.stem not in SERVICES
}  # parts of one run have its command on top
"""One configuration for each command."""


@pytest.mark.parametrize("config", COMMANDS.values(), ids=lambda path: str(path.relative_to(ROOT)))
def test_configuration_runs(config, few, folder):
    run = folder / "run"
    assert main(command(config, few, run)) == 0
    stored = torch.load(run / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 2
    assert all(
        bool(torch.isfinite(value).all())
        for value in stored["state_dict"].values()
        if value.is_floating_point()
    )
    assert not math.isnan(float(stored["state_dict"]["encoder.log_logit_scale"]))
    with (run / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/loss"]] == ["0", "1"]
    assert yaml.safe_load((run / "config.yaml").read_text())["trainer"]["max_steps"] == 2


@pytest.mark.parametrize("name", SERVICES)
def test_configuration_with_a_service_is_accepted(name, few, folder, capsys):
    """Its logger is created and run in ``tests/cli/test_loggers.py``, with these options."""
    pytest.importorskip(name)
    config = ROOT / f"configs/trainer/{name}.yaml"
    assert main([*command(config, few, folder / "run"), "--print_config"]) == 0
    loggers = yaml.safe_load(capsys.readouterr().out)["trainer"]["logger"]
    (given,) = yaml.safe_load(config.read_text())["trainer"]["logger+"]
    assert loggers[-1]["class_path"] == given["class_path"]
    assert len(loggers) > 1


def test_every_configuration_is_in_its_command():
    for config in CONFIGS:
        assert str(config.relative_to(ROOT)) in command_of(config)


def test_every_kind_of_part_is_there():
    folders = {path.parent.name for path in CONFIGS}
    assert folders >= {"model", "data", "trainer", "experiment"}
    names = {path.name for path in CONFIGS if path.parent.name == "experiment"}
    assert {
        "demo.yaml",
        "vit_b32_webdataset.yaml",
        "finetune_labels.yaml",
        "finetune_flyp.yaml",
    } <= names


def test_runs_need_no_logger_of_an_extra():
    """Only the files that are named after a service bring the logger of an extra."""
    plain = [path for path in CONFIGS if path.stem not in SERVICES or path.stem == "wandb"]
    trainers = [yaml.safe_load(path.read_text()).get("trainer", {}) for path in plain]
    entries = [entry for trainer in trainers for entry in trainer.get("logger") or []]
    assert len(plain) > 20
    assert {entry["class_path"] for entry in entries} == {
        "clipkit.training.MetricsCsv",
        "lightning.pytorch.loggers.WandbLogger",
    }
