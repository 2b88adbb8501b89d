"""``clipkit tune``: the command, and the spaces that are shipped."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import yaml

from clipkit.cli.fit.resolve import check_config
from clipkit.cli.main import main
from clipkit.cli.tune import command as tune
from clipkit.training.callbacks.optuna_pruning import PRUNERS
from clipkit.tuning.search import check_space
from tests.helpers import tiny
from tests.helpers.launched_here import launch_here
from tests.helpers.quick_sqlite import _no_waiting_for_databases  # noqa: F401

ROOT = Path(__file__).parents[2]


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_command_offers_every_pruner():
    assert tune._PRUNERS == PRUNERS


def test_the_command(tmp_path, capsys, monkeypatch):
    """A trial, and the same command again."""
    launch_here(monkeypatch)
    tiny.shards(tmp_path / "data")
    space = write(
        tmp_path / "space.yaml",
        "model.optimizer.lr: {type: float, low: 1.0e-4, high: 1.0e-2, log: true}\n",
    )
    words = ["tune", *tiny.words(tmp_path / "data", tmp_path / "run"),
             f"--data.val={tmp_path}/data/val/*.tar", "--trainer.val_check_interval=2",
             "--space", str(space), "--metric", "val/loss",
             "--direction", "minimize", "--output", str(tmp_path / "out")]  # fmt: skip
    assert main([*words, "--trials", "1"]) == 0
    assert main([*words, "--trials", "1"]) == 0  # nothing is left to do
    out = capsys.readouterr().out
    assert out.count("trial 0: complete val/loss=") == 1
    folder = tmp_path / "out"
    assert {"study.html", "study.json", "best.yaml", "study.sqlite3"} <= {
        path.name for path in folder.iterdir()
    }
    assert {"config.yaml", "trial.json", "log.txt"} <= {
        path.name for path in (folder / "trials/0000").iterdir()
    }
    (trial,) = json.loads((folder / "study.json").read_text())["trials"]
    best = yaml.safe_load((folder / "best.yaml").read_text())
    assert best["model"]["optimizer"]["init_args"]["lr"] == trial["values"]["model.optimizer.lr"]
    assert best["trainer"]["default_root_dir"] == str(tmp_path / "run")
    assert best["trainer"]["callbacks"] is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model.optimiser.lr: {type: float, low: 1, high: 2}", "did you mean 'model.optimizer"),
        ("data.batch_size: {type: categorical, choices: [4, many]}", "data.batch_size: 'many'"),
    ],
)
def test_a_space_that_does_not_fit_the_run(text, message, tmp_path, capsys):
    space = write(tmp_path / "space.yaml", text)
    words = ["tune", *tiny.words(tmp_path, tmp_path), "--space", str(space), "--metric", "val/loss",
             "--direction", "minimize", "--output", str(tmp_path / "out")]  # fmt: skip
    assert main(words) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out/trials").exists()


@pytest.mark.parametrize("path", sorted((ROOT / "configs/tune").glob("*.yaml")), ids=str)
def test_shipped_spaces_fit_their_configurations(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    (line,) = [x for x in path.read_text().splitlines() if x.startswith("# clipkit tune ")]
    words = shlex.split(line.removeprefix("# clipkit tune "))
    assert str(path.relative_to(ROOT)) in words
    args, fit_words = tune.build_parser().parse_known_args(words)
    settings = tune.study_settings(args, fit_words)
    check_space(settings, check_config)
    assert len(settings.space) == len(yaml.safe_load(path.read_text()))


def test_the_command_of_the_sweep_runs(tmp_path, monkeypatch):
    """As an agent of W&B would start it, on tiny towers."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("WANDB_SILENT", "true")
    tiny.shards(tmp_path / "data")
    sweep = yaml.safe_load((ROOT / "configs/sweep/wandb.yaml").read_text())
    chosen = [
        f"--{name}={spec['values'][0] if 'values' in spec else spec['max']}"
        for name, spec in sweep["parameters"].items()
    ]
    command = sweep["command"]
    assert command[:2] == ["clipkit", "fit"]
    assert command[-1] == "${args}"
    status = main(
        [
            *command[1:-1],
            *chosen,
            f"--model.encoder.name={json.dumps(tiny.CONFIG)}",
            f"--data.train={tmp_path}/data/train/*.tar",
            f"--data.val={tmp_path}/data/val/*.tar",
            "--data.batch_size=4",
            "--data.num_workers=0",
            "--trainer.max_steps=2",
            "--trainer.val_check_interval=1",
            "--trainer.log_every_n_steps=1",
            f"--trainer.default_root_dir={tmp_path}/run",
        ]
    )
    assert status == 0
    config = yaml.safe_load((tmp_path / "run/config.yaml").read_text())
    assert config["model"]["optimizer"]["init_args"]["lr"] == 0.01
    assert sweep["metric"]["name"] in (tmp_path / "run/metrics.csv").read_text().splitlines()[0]
