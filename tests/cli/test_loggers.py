"""Loggers receive configuration, environment and checkpoints, through the real command."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.loggers import WandbLogger

from clipkit.cli.main import main
from clipkit.suggestions import one_line
from clipkit.training.loggers.environment import commit_of
from tests.helpers import tiny
from tests.helpers.quick_sqlite import _no_waiting_for_databases  # noqa: F401

SAVER = {
    "class_path": "clipkit.training.callbacks.SaveCheckpoint",
    "init_args": {"monitor": "val/loss", "mode": "min"},
}


@pytest.fixture
def wandb(monkeypatch, tmp_path):
    """W&B offline, with its files in the test's folder."""
    import wandb

    for name in ("DATA", "ARTIFACT", "CACHE"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / "wandb_files"))
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return wandb


def fit(shards: Path, run: Path, logger: object, *more: str, command: str = "fit") -> int:
    decided = ("--trainer.logger", "--trainer.enable_checkpointing", "--ckpt_path")
    words = [word for word in tiny.words(shards, run) if not word.startswith(decided)]
    trainer = {"logger": logger, "callbacks": [SAVER], "enable_checkpointing": True}
    trainer |= {"log_every_n_steps": 1, "val_check_interval": 1}
    file = run.parent / "loggers.yaml"
    file.write_text(yaml.safe_dump({"trainer": trainer}))
    return main([command, "-c", str(file), *words, f"--data.val={shards}/val/*.tar", *more])


def entry(class_path: str, **options: object) -> dict[str, object]:
    return {"class_path": class_path, "init_args": options}


def shipped(file: str, **options: object) -> dict[str, object]:
    """The logger of a file of ``configs/trainer``, with other options where they are given."""
    path = Path(__file__).parents[2] / f"configs/trainer/{file}.yaml"
    (logger,) = yaml.safe_load(path.read_text())["trainer"]["logger+"]
    return entry(logger["class_path"], **{**logger["init_args"], **options})


def check_params(params: dict) -> None:
    """What every logger receives."""
    assert params["model"]["optimizer"]["init_args"]["lr"] == 1e-3  # a default, written out
    assert params["data"]["batch_size"] == 4
    environment = params["environment"]
    assert environment["versions"]["torch"] == version("torch")
    assert (environment["hosts"], environment["world_size"]) == (1, 1)
    assert environment["precision"] == "32-true"
    commit = commit_of(Path.cwd())
    assert environment["commit"] == (commit and asdict(commit))


def test_wandb_has_the_run_and_its_checkpoints(shards, tmp_path, monkeypatch, wandb):
    seen, uploads = {}, []
    finalize, log_artifact = WandbLogger.finalize, wandb.Run.log_artifact

    def read_config(self, status):
        seen.update(dict(self.experiment.config))
        finalize(self, status)

    def record(self, artifact, *args, aliases=(), **options):
        uploads.append((artifact.metadata, list(artifact.manifest.entries), list(aliases)))
        return log_artifact(self, artifact, *args, aliases=aliases, **options)

    monkeypatch.setattr(WandbLogger, "finalize", read_config)
    monkeypatch.setattr(wandb.Run, "log_artifact", record)
    logger = shipped("wandb", log_model=True)
    assert fit(shards, tmp_path / "run", logger) == 0
    check_params(seen)
    assert list((tmp_path / "run").glob("wandb/offline-run-*/*.wandb"))
    assert {data["original_filename"] for data, _, _ in uploads} == {"last.ckpt", "best.ckpt"}
    assert [files for _, files, _ in uploads] == [["model.ckpt"]] * 2
    (best,) = [data for data, _, aliases in uploads if "best" in aliases]
    stored = torch.load(tmp_path / "run" / "best.ckpt", weights_only=True)
    assert best["original_filename"] == "best.ckpt"
    assert best["score"] == pytest.approx(-stored["callbacks"]["SaveCheckpoint"]["best"])
    assert best["SaveCheckpoint"]["monitor"] == "val/loss"


def test_tables_and_tensorboard_have_the_run(shards, tmp_path):
    loggers = [
        entry("clipkit.training.MetricsCsv", save_dir="auto"),
        shipped("tensorboard"),
        entry("lightning.pytorch.loggers.CSVLogger", save_dir="auto", name="csv"),
    ]
    run = tmp_path / "run"
    assert fit(shards, run, loggers) == 0
    for folder in ("tensorboard", "csv"):
        text = (run / folder / "version_0" / "hparams.yaml").read_text()
        check_params(yaml.safe_load(text))
    assert list(run.glob("tensorboard/version_0/events.out.tfevents.*"))
    header = (run / "csv" / "version_0" / "metrics.csv").read_text().splitlines()[0]
    assert {"train/loss", "train/logit_scale"} <= set(header.split(","))
    params = yaml.safe_load((run / "config.yaml").read_text())
    check_params({**params, "environment": yaml.safe_load((run / "environment.yaml").read_text())})


def test_mlflow_has_the_run_its_metrics_and_checkpoints(shards, tmp_path, monkeypatch):
    tracking = pytest.importorskip("mlflow.tracking")
    pytest.importorskip("sqlalchemy")
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    location = (tmp_path / "artifacts").as_uri()
    logger = shipped("mlflow", tracking_uri=uri, log_model=True, artifact_location=location)
    run = tmp_path / "run"
    assert fit(shards, run, logger) == 0
    client = tracking.MlflowClient(uri)
    (stored,) = client.search_runs([client.get_experiment_by_name("clipkit").experiment_id])
    assert stored.data.params["model/optimizer/init_args/lr"] == "0.001"
    assert stored.data.params["environment/versions/torch"] == version("torch")
    assert {"train/loss", "val/loss"} <= set(stored.data.metrics)
    assert {path.name for path in (tmp_path / "artifacts").rglob("*.ckpt")} == {
        "last.ckpt", "best.ckpt",
    }  # fmt: skip
    # MLflow refuses other values of parameters; the run continues all the same
    logger["init_args"] |= {"run_id": stored.info.run_id}
    assert fit(shards, run, logger, "--ckpt_path=last", "--trainer.max_steps=6") == 0
    history = client.get_metric_history(stored.info.run_id, "train/loss")
    assert [metric.step for metric in history] == [0, 1, 2, 3, 4, 5]


def test_trackio_has_the_run(shards, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    logger = shipped("trackio", name="tiny")
    assert fit(shards, tmp_path / "run", logger) == 0
    check_params(SQLiteStorage.get_run_config("clipkit", "tiny"))
    rows = [row for row in SQLiteStorage.get_logs("clipkit", "tiny") if "train/loss" in row]
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    words = ("--ckpt_path=last", "--trainer.max_steps=6")
    assert fit(shards, tmp_path / "run", logger, *words) == 0
    rows = [row for row in SQLiteStorage.get_logs("clipkit", "tiny") if "train/loss" in row]
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4, 5]


def test_the_best_checkpoint_by_its_word_without_advertisements(shards, tmp_path, capfd):
    run = tmp_path / "run"
    assert fit(shards, run, False) == 0
    (run / "last.ckpt").unlink()
    for name in ("validate", "fit"):
        words = ("--ckpt_path=best", "--trainer.max_steps=6")
        assert fit(shards, run, False, *words, command=name) == 0
    printed = "".join(capfd.readouterr())
    for word in ("Tip", "litlogger", "litmodels", "lightning.ai"):
        assert word not in printed


def test_a_missing_or_torn_best_checkpoint_is_named(shards, tmp_path, capsys):
    run = tmp_path / "run"
    assert fit(shards, run, False, "--ckpt_path=best") == 2
    assert "best.ckpt, found none; SaveCheckpoint.monitor" in one_line(capsys.readouterr().err)
    run.mkdir()
    (run / "best.ckpt").write_bytes(b"torn")
    assert fit(shards, run, False, "--ckpt_path=best", command="validate") == 2
    assert "best.ckpt: incomplete or damaged" in one_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    ("class_path", "module"),
    [
        ("lightning.pytorch.loggers.TensorBoardLogger", "tensorboard"),
        ("lightning.pytorch.loggers.MLFlowLogger", "mlflow"),
        ("clipkit.training.TrackioLogger", "trackio"),
    ],
)
def test_a_logger_without_its_package(shards, tmp_path, monkeypatch, capsys, class_path, module):
    missing = lambda name, *_: None if name == module else ""  # noqa: E731
    monkeypatch.setattr("clipkit.cli.fit.loggers.find_spec", missing)
    options = {"project": "clipkit"} if module == "trackio" else {}
    if module == "tensorboard":
        options = {"save_dir": "auto"}
    assert fit(shards, tmp_path / "run", entry(class_path, **options)) == 2
    message = one_line(capsys.readouterr().err)
    assert f"{class_path} needs the package {module}" in message
    assert f"pip install 'clipkit[{module}]'" in message
