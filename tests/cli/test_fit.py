"""``clipkit fit`` and its siblings through the real command, on a tiny run."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path

import pytest
import torch
import yaml

from clipkit.cli.main import main
from clipkit.models.checkpoints.encoder import load_encoder
from clipkit.runs import read_run
from tests.helpers import tiny

CALLBACKS = {
    "trainer": {
        "enable_checkpointing": True,
        "log_every_n_steps": 1,
        "logger": [
            {"class_path": "clipkit.training.MetricsCsv", "init_args": {"save_dir": "auto"}}
        ],
        "callbacks": [
            {"class_path": "clipkit.training.callbacks.ProgressBar"},
            {"class_path": "clipkit.training.callbacks.ParameterSummary"},
            {"class_path": "clipkit.training.callbacks.Throughput"},
            {"class_path": "clipkit.training.callbacks.SaveCheckpoint"},
        ],
    }
}


def tiny_words(shards: Path, run: Path) -> list[str]:
    """The tiny run, without the flags that ``CALLBACKS`` decides."""
    decided = ("--trainer.logger", "--trainer.enable_checkpointing", "--trainer.enable_progress")
    return [word for word in tiny.words(shards, run) if not word.startswith(decided)]


def write(path: Path, content: object) -> str:
    path.write_text(yaml.safe_dump(content))
    return str(path)


@pytest.fixture(scope="module")
def finished(shards, tmp_path_factory):
    """The folder of one finished run."""
    folder = tmp_path_factory.mktemp("finished")
    run = folder / "run"
    parts = ["-c", write(folder / "callbacks.yaml", CALLBACKS)]
    assert main(["fit", *parts, *tiny_words(shards, run), f"--data.val={shards}/val/*.tar"]) == 0
    return run


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def column(run: Path, name: str) -> list[float]:
    return [float(row[name]) for row in rows(run) if row.get(name)]


def test_run_leaves_configuration_history_and_checkpoint(finished):
    names = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "metrics.csv", "last.ckpt", "run.json"} <= names


def test_run_leaves_a_record(finished):
    run = read_run(finished)
    assert run.state == "finished"
    assert run.metrics["train/loss"] == column(finished, "train/loss")[-1]
    assert run.config["trainer.default_root_dir"] == str(finished)
    assert len(run.config_hash) == 12
    assert len(run.data_fingerprint) == 32


@pytest.mark.parametrize(
    "name",
    [
        "train/loss",
        "train/contrastive",
        "train/logit_scale",
        "train/learning_rate",
        "train/gradient_norm",
        "throughput/samples_per_second",
        "throughput/data_wait_share",
    ],
)
def test_every_step_is_logged(finished, name):
    values = column(finished, name)
    assert len(values) == 4
    assert all(value >= 0 for value in values)


def test_learning_rate_follows_the_schedule(finished):
    rates = column(finished, "train/learning_rate")
    assert rates[0] == pytest.approx(1e-3)
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.3e-3


def test_encoder_of_the_checkpoint_needs_no_lightning(finished):
    loaded = load_encoder(finished / "last.ckpt")
    stored = torch.load(finished / "last.ckpt", weights_only=True)
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, stored["state_dict"][f"encoder.{name}"])
    assert stored["clipkit"]["tokenizer"]["init_args"] == {
        "name": loaded.text_tower.tokenizer_name,
        "context_length": 16,
    }


def test_resolved_configuration_is_saved_twice_and_starts_the_run_again(finished, tmp_path):
    config = yaml.safe_load((finished / "config.yaml").read_text())
    stored = torch.load(finished / "last.ckpt", weights_only=True)["clipkit"]["config"]
    assert stored["model"] == config["model"]
    assert stored["data"] == config["data"]
    assert config["model"]["optimizer"]["init_args"]["lr"] == 1e-3  # a default, written out
    words = ["fit", "-c", str(finished / "config.yaml"), f"--trainer.default_root_dir={tmp_path}"]
    assert main([*words, f"--trainer.logger.save_dir={tmp_path}"]) == 0
    assert column(tmp_path, "train/loss") == column(finished, "train/loss")


def test_later_files_and_flags_win_and_lists_append(shards, tmp_path, capsys):
    first = write(tmp_path / "1.yaml", {"data": {"batch_size": 2, "seed": 5}, **CALLBACKS})
    second = {
        "data": {"batch_size": 3},
        "trainer": {
            "callbacks+": [{"class_path": "clipkit.training.callbacks.ExponentialMovingAverage"}]
        },
    }
    words = [
        "-c",
        first,
        "-c",
        write(tmp_path / "2.yaml", second),
        "--data.samples.label_field=json:number",
    ]
    assert main(["fit", *words, *tiny_words(shards, tmp_path), "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)
    assert config["data"]["seed"] == 5
    assert config["data"]["batch_size"] == 4  # the last of tiny_words
    assert config["data"]["samples"]["label_field"] == "json:number"
    classes = [entry["class_path"].rsplit(".", 1)[1] for entry in config["trainer"]["callbacks"]]
    assert classes == [
        "ProgressBar", "ParameterSummary", "Throughput", "SaveCheckpoint",
        "ExponentialMovingAverage",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "strategy", ["lightning.pytorch.strategies.DDPStrategy", "clipkit.training.ShardedStrategy"]
)
def test_collectives_have_the_timeout_of_the_pages(shards, tmp_path, capsys, strategy):
    words = ["--trainer.strategy.class_path", strategy, "--trainer.strategy.timeout", "0:10:00"]
    given = [word for word in tiny_words(shards, tmp_path) if "strategy" not in word]
    assert main(["fit", *given, *words, "--print_config"]) == 0
    config = yaml.safe_load(capsys.readouterr().out)["trainer"]["strategy"]
    assert config["class_path"] == strategy
    assert config["init_args"]["timeout"] == "0:10:00"


def test_flags_win_over_a_checkpoint(finished, tmp_path):
    """Lightning's own CLI would read the checkpoint's options over configuration and flags."""
    checkpoint = torch.load(finished / "last.ckpt", weights_only=True)
    checkpoint["hyper_parameters"] = {"loss": {"contrastive_weight": 7.0}, "_instantiator": "x"}
    torch.save(checkpoint, tmp_path / "start.ckpt")
    assert (
        main(
            [
                "fit",
                f"--config={finished / 'config.yaml'}",
                f"--trainer.default_root_dir={tmp_path}",
                f"--trainer.logger.save_dir={tmp_path}",
                "--model.optimizer.lr=0.25",
                "--trainer.max_steps=8",
                f"--ckpt_path={tmp_path / 'start.ckpt'}",
            ]
        )
        == 0
    )
    assert [int(row["step"]) for row in rows(tmp_path) if row["train/loss"]] == [4, 5, 6, 7]
    rates = column(tmp_path, "train/learning_rate")
    assert 0.02 < rates[0] < 0.25  # in the second half of the cosine, from 0.25 on
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert stored["clipkit"]["config"]["model"]["optimizer"]["init_args"]["lr"] == 0.25
    assert stored["clipkit"]["config"]["model"]["loss"]["contrastive_weight"] == 1.0
    assert stored["optimizer_states"][0]["param_groups"][0]["lr"] < 0.25


@pytest.mark.parametrize("name", ["validate", "test"])
def test_validate_and_test_print_the_loss(finished, shards, name, capsys):
    words = [f"--config={finished / 'config.yaml'}", f"--ckpt_path={finished / 'last.ckpt'}"]
    assert main([name, *words]) == 0
    stage = {"validate": "val", "test": "test"}[name]
    assert f"{stage}/contrastive" in capsys.readouterr().out


def test_predict_writes_embeddings_of_the_validation_pairs(finished, tmp_path):
    words = [f"--config={finished / 'config.yaml'}", f"--ckpt_path={finished / 'last.ckpt'}"]
    assert main(["predict", *words, f"--trainer.default_root_dir={tmp_path}"]) == 0
    import numpy as np

    stored = np.load(tmp_path / "embeddings.rank0.npz")
    assert stored["keys"].tolist() == [f"{1000 + i:06d}" for i in range(8)]
    for name in ("image", "text"):
        assert stored[name].shape == (8, 16)
        np.testing.assert_allclose(np.linalg.norm(stored[name], axis=1), 1, rtol=1e-5)


def test_zero_shot_evaluation_during_fit(shards, tmp_path):
    evaluator = {
        "class_path": "clipkit.evaluation.Retrieval",
        "init_args": {"data": f"{shards}/val/*.tar", "ks": [1, 5], "options": {"batch_size": 3}},
    }
    callback = {
        "class_path": "clipkit.training.callbacks.ZeroShotEvaluation",
        "init_args": {"evaluators": {"squares": evaluator}, "every_n_steps": 3},
    }
    config = write(tmp_path / "a.yaml", CALLBACKS)
    more = write(tmp_path / "b.yaml", {"trainer": {"callbacks+": [callback]}})
    assert main(["fit", "-c", config, "-c", more, *tiny_words(shards, tmp_path)]) == 0
    name = "squares/text_to_image/recall_at_5"
    assert [int(row["step"]) for row in rows(tmp_path) if row.get(name)] == [2, 3]
    assert all(0 <= value <= 1 for value in column(tmp_path, name))


def next_second() -> None:
    """W&B names its folders by the second."""
    now = int(time.time())
    while int(time.time()) == now:
        time.sleep(0.01)


def test_resumed_run_goes_on_under_the_same_wandb_id(shards, tmp_path, monkeypatch):
    """Another run in this process has another id, and its files in its own folder."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    logger = {
        "class_path": "lightning.pytorch.loggers.WandbLogger",
        "init_args": {"save_dir": "auto", "offline": True, "project": "clipkit"},
    }
    saver = {"class_path": "clipkit.training.callbacks.SaveCheckpoint"}
    trainer = {"logger": logger, "callbacks": [saver], "enable_checkpointing": True}
    config = write(tmp_path / "a.yaml", {"trainer": trainer})

    def ids(run: str = "run") -> list[str]:
        folders = sorted((tmp_path / run / "wandb").glob("offline-run-*"), key=os.path.getmtime)
        assert all(list(folder.glob("*.wandb")) for folder in folders)
        return [folder.name.rsplit("-", 1)[1] for folder in folders]

    words = ["fit", "-c", config, *tiny_words(shards, tmp_path / "run")]
    assert main([*words, "--ckpt_path=last"]) == 0
    assert ids() == [(tmp_path / "run" / "wandb_id.txt").read_text().strip()]
    other = ["fit", "-c", config, *tiny_words(shards, tmp_path / "other"), "--trainer.max_steps=1"]
    assert main(other) == 0
    assert len(ids("other")) == 1
    next_second()
    assert main([*words, "--ckpt_path=last", "--trainer.max_steps=6"]) == 0
    assert len(ids()) == 2
    assert len(set(ids())) == 1
    next_second()
    assert main([*words, "--overwrite"]) == 0  # from the start: another run
    assert len(set(ids())) == 2
    assert not set(ids()) & set(ids("other"))
    stored = (tmp_path / "run" / "config.yaml").read_text()
    assert not any(name in stored for name in ids())


def test_bfloat16_on_cpu(shards, tmp_path):
    config = write(tmp_path / "a.yaml", CALLBACKS)
    words = tiny_words(shards, tmp_path)
    assert main(["fit", "-c", config, *words, "--trainer.precision=bf16-mixed"]) == 0
    losses = column(tmp_path, "train/loss")
    assert len(losses) == 4
    assert all(0 < loss < 20 for loss in losses)


def test_towers_and_tokenizer_by_class_path(shards, tmp_path):
    """An encoder put together from towers, its tokenizer and transform given."""
    config = json.dumps(tiny.CONFIG)
    words = [word for word in tiny.words(shards, tmp_path) if "model.encoder" not in word]
    assert (
        main(
            [
                "fit",
                *words,
                "--model.encoder=clipkit.models.DualEncoder",
                "--model.encoder.image_tower=clipkit.models.OpenClipImageTower",
                f"--model.encoder.image_tower.model={config}",
                "--model.encoder.text_tower=clipkit.models.OpenClipTextTower",
                f"--model.encoder.text_tower.model={config}",
                "--model.encoder.logit_scale=10",
                "--model.encoder.logit_bias=-10",
                "--model.encoder.max_logit_scale=null",
                "--model.loss.contrastive=clipkit.losses.SigmoidLoss",
                "--data.tokenizer=clipkit.data.OpenClipTokenizer",
                "--data.tokenizer.context_length=12",
                "--data.samples.transform=clipkit.data.TrainTransform",
                "--data.samples.transform.size=16",
            ]
        )
        == 0
    )


TOWERS = {
    f"{name}_tower": {
        "class_path": f"clipkit.models.OpenClip{name.title()}Tower",
        "init_args": {"model": tiny.CONFIG},
    }
    for name in ("image", "text")
}
FLAGS = [
    f"--model.encoder.{name}{option}={value}"
    for name, tower in TOWERS.items()
    for option, value in (("", tower["class_path"]), (".model", json.dumps(tiny.CONFIG)))
]


@pytest.mark.parametrize(
    ("encoders", "flags"),
    [
        ([], FLAGS),
        ([], [f"--model.encoder={json.dumps({'logit_scale': 3.0})}", *FLAGS]),
        ([TOWERS], []),
        ([{"init_args": TOWERS}], []),
        ([{"logit_scale": 3.0}, TOWERS], []),
        ([{"image_tower": TOWERS["image_tower"]}], FLAGS[2:]),
    ],
)
def test_an_encoder_without_a_class_is_one_of_images_and_texts(
    encoders, flags, shards, tmp_path, capsys
):
    words = [word for word in tiny.words(shards, tmp_path) if "model.encoder" not in word]
    for number, encoder in enumerate(encoders):
        words += ["-c", write(tmp_path / f"{number}.yaml", {"model": {"encoder": encoder}})]
    assert main(["fit", *words, *flags, "--print_config"]) == 0
    encoder = yaml.safe_load(capsys.readouterr().out)["model"]["encoder"]
    assert encoder["class_path"].endswith(".DualEncoder")
    found = encoder["init_args"]
    for name, tower in TOWERS.items():
        assert found[name]["class_path"].endswith(str(tower["class_path"]).rpartition(".")[2])
        assert found[name]["init_args"]["model"] == tiny.CONFIG
    scale = 3.0 if "logit_scale" in f"{encoders} {flags}" else 1 / 0.07
    assert found["logit_scale"] == pytest.approx(scale)


def test_an_encoder_by_a_function_keeps_its_own_defaults(shards, tmp_path, capsys):
    named = {"class_path": "clipkit.models.from_open_clip", "init_args": {"name": tiny.CONFIG}}
    first = write(tmp_path / "1.yaml", {"model": {"encoder": named}})
    second = write(tmp_path / "2.yaml", {"model": {"encoder": {"patch_dropout": 0.5}}})
    words = [word for word in tiny.words(shards, tmp_path) if "model.encoder" not in word]
    assert main(["fit", *words, "-c", first, "-c", second, "--print_config"]) == 0
    encoder = yaml.safe_load(capsys.readouterr().out)["model"]["encoder"]
    assert encoder["class_path"].endswith(".from_open_clip")
    assert encoder["init_args"]["patch_dropout"] == 0.5
    assert encoder["init_args"]["name"] == tiny.CONFIG


def test_an_encoder_of_parts_lacks_none(shards, tmp_path, capsys):
    words = [word for word in tiny.words(shards, tmp_path) if "model.encoder" not in word]
    assert main(["fit", *words, *FLAGS[:2]]) == 2
    assert "text_tower" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--help_all"], "--model.schedule"),
        (["--model.encoder.help", "clipkit.models.from_open_clip"], "--model.encoder.pretrained"),
        (["--model.optimizer.help", "torch.optim.AdamW"], "--model.optimizer.lr"),
        (["--data.tokenizer.help", "clipkit.data.OpenClipTokenizer"], "context_length"),
    ],
)
def test_help_of_parts(words, expected, capsys):
    assert main(["fit", *words]) == 0
    assert expected in capsys.readouterr().out
