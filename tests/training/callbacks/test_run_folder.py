"""A run's folder belongs to one run: nothing in it is replaced by accident."""

from __future__ import annotations

import csv
import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback

from clipkit.cli.demo.command import _check_folder
from clipkit.cli.demo.files import DemoFiles
from clipkit.cli.main import main
from clipkit.errors import ConfigError
from clipkit.training.callbacks.run_folder import traces_of_a_run
from tests.helpers import tiny

CALLBACKS = "clipkit.training.callbacks"


class Interrupt(Callback):
    """Ctrl-C in the first second: before the first batch, or during it."""

    def __init__(self, hook: str) -> None:
        self.hook = hook

    def on_train_start(self, trainer, pl_module):
        if self.hook == "on_train_start":
            raise KeyboardInterrupt

    def on_before_backward(self, trainer, pl_module, loss):
        if self.hook == "on_before_backward":
            raise KeyboardInterrupt


def fit(shards: Path, run: Path, *more: str, callbacks: tuple[object, ...] = ()) -> int:
    log = {"class_path": f"{CALLBACKS}.KeyLog", "init_args": {"path": f"{run}/keys.txt"}}
    saver = {"class_path": f"{CALLBACKS}.SaveCheckpoint", "init_args": {"keep_every_n_steps": 2}}
    table = {"class_path": "clipkit.training.MetricsCsv", "init_args": {"save_dir": "auto"}}
    words = [
        *(word for word in tiny.words(shards, run) if "logger" not in word),
        f"--trainer.logger={json.dumps([table])}",
        f"--trainer.callbacks={json.dumps([*callbacks, log, saver])}",
        "--trainer.enable_checkpointing=true",
        "--trainer.log_every_n_steps=1",
    ]
    return main(["fit", *words, *more])


def interrupt(hook: str) -> tuple[object, ...]:
    return ({"class_path": f"{__name__}.Interrupt", "init_args": {"hook": hook}},)


def contents(run: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}


def step(run: Path) -> int:
    return int(torch.load(run / "last.ckpt", weights_only=True)["global_step"])


@pytest.fixture(scope="module")
def original(shards, tmp_path_factory) -> Path:
    run = tmp_path_factory.mktemp("original") / "run"
    assert fit(shards, run) == 0
    assert traces_of_a_run(str(run)) == ["last.ckpt", "metrics.csv", "step=2.ckpt", "step=4.ckpt"]
    return run


@pytest.fixture
def finished(original, tmp_path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "run"))


@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--preflight_only"],
        ["--trainer.max_epochs=-1", "--trainer.max_steps=-1"],
        ["--seed_everything=7"],
    ],
)
def test_another_run_is_refused_before_anything_is_touched(shards, finished, capsys, more):
    before = contents(finished)
    capsys.readouterr()
    assert fit(shards, finished, *more) == 2
    line = capsys.readouterr().err
    assert f"trainer.default_root_dir: {finished} contains a run (last.ckpt, metrics.csv" in line
    for way in ("--ckpt_path last", "--trainer.default_root_dir", "--overwrite"):
        assert way in line
    assert contents(finished) == before


NO_END = ["--trainer.max_epochs=-1", "--trainer.max_steps=-1"]
LONG_WARMUP = ["--model.schedule.warmup=90", "--trainer.max_steps=9"]


@pytest.mark.parametrize(
    ("start", "wrong"),
    [
        ("--ckpt_path=last", NO_END),
        ("--ckpt_path={}/step=2.ckpt", LONG_WARMUP),
        ("--overwrite", NO_END),
        ("--overwrite", LONG_WARMUP),
    ],
)
def test_a_refused_command_leaves_all_as_it_was(shards, finished, start, wrong):
    before = contents(finished)
    assert fit(shards, finished, start.format(finished), *wrong) == 2
    assert contents(finished) == before


@pytest.mark.parametrize("start", ["--ckpt_path=last", "--ckpt_path={}/step=2.ckpt", "--overwrite"])
def test_an_interrupt_before_the_first_batch_leaves_all_as_it_was(shards, finished, start):
    before = contents(finished)
    words = [start.format(finished), "--trainer.max_steps=9"]
    assert fit(shards, finished, *words, callbacks=interrupt("on_train_start")) == 130
    assert contents(finished) == before


def test_an_interrupt_in_the_first_batch_keeps_what_went_further(shards, finished):
    words = [f"--ckpt_path={finished}/step=2.ckpt", "--trainer.max_steps=9"]
    assert fit(shards, finished, *words, callbacks=interrupt("on_before_backward")) == 130
    assert step(finished) == 4


def test_overwrite_replaces_the_run(shards, finished):
    assert fit(shards, finished, "--overwrite", "--trainer.max_steps=3") == 0
    assert step(finished) == 3
    assert traces_of_a_run(str(finished)) == ["last.ckpt", "metrics.csv", "step=2.ckpt"]
    keys = (finished / "keys.txt").read_text().splitlines()
    assert {line.split()[0] for line in keys} == {"1", "2", "3"}


def test_overwrite_and_resume_contradict_each_other(shards, finished, capsys):
    before = contents(finished)
    for path in ("last", f"{finished}/step=2.ckpt"):
        assert fit(shards, finished, "--overwrite", f"--ckpt_path={path}") == 2
        assert "--overwrite: not possible with --ckpt_path" in capsys.readouterr().err
    assert contents(finished) == before


def test_last_continues_and_says_where_it_starts_anew(shards, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        assert fit(shards, tmp_path, "--ckpt_path=last") == 0
    assert f"no checkpoint in {tmp_path} yet, starting a new run" in caplog.text
    caplog.clear()
    assert fit(shards, tmp_path, "--ckpt_path=last", "--trainer.max_steps=6") == 0
    assert "starting a new run" not in caplog.text
    assert step(tmp_path) == 6
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows if row["train/loss"]] == [*"012345"]


def test_a_killed_run_without_a_checkpoint_starts_anew_with_last(shards, tmp_path):
    (tmp_path / "metrics.csv").write_text("step,train/loss\n0,1.0\n")
    (tmp_path / "keys.txt").write_text("1 0 a\n")
    assert fit(shards, tmp_path) == 2
    assert fit(shards, tmp_path, "--ckpt_path=last") == 0
    assert "1 0 a" not in (tmp_path / "keys.txt").read_text().splitlines()


def test_a_start_from_another_run_does_not_replace_a_third(shards, finished, tmp_path):
    start = f"--ckpt_path={finished}/last.ckpt"
    assert fit(shards, tmp_path / "second", start, "--trainer.max_steps=6") == 0
    before = contents(tmp_path / "second")
    assert fit(shards, tmp_path / "second", start, "--trainer.max_steps=5") == 2
    assert contents(tmp_path / "second") == before


def test_a_refused_run_in_a_new_folder_does_not_block_it(shards, tmp_path):
    assert fit(shards, tmp_path / "new", "--trainer.max_epochs=-1", "--trainer.max_steps=-1") == 2
    assert traces_of_a_run(str(tmp_path / "new")) == []
    assert fit(shards, tmp_path / "new") == 0


def test_a_log_elsewhere_belongs_to_one_run_too(shards, tmp_path, capsys):
    log = tmp_path / "all" / "keys.txt"
    callback = {"class_path": f"{CALLBACKS}.KeyLog", "init_args": {"path": str(log)}}
    words = [f"--trainer.callbacks={json.dumps([callback])}"]
    assert main(["fit", *tiny.words(shards, tmp_path / "a", *words)]) == 0
    before = log.read_bytes()
    assert main(["fit", *tiny.words(shards, tmp_path / "b", *words)]) == 2
    assert str(log) in capsys.readouterr().err
    assert log.read_bytes() == before


def test_a_file_is_no_folder(shards, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    assert fit(shards, tmp_path / "file") == 2
    assert "default_root_dir: expected a folder, got the file" in capsys.readouterr().err


def test_finetune_refuses_before_it_writes(finished, capsys):
    before = contents(finished)
    words = ["finetune", "--train", "nowhere.csv", "--model", "x", "--output", str(finished)]
    for more in ([], ["--print"]):
        assert main([*words, *more]) == 2
        line = capsys.readouterr().err
        assert f"clipkit fit -c {finished}/finetune.yaml --ckpt_path last" in line
        assert "--overwrite" in line
    assert contents(finished) == before
    assert main([*words, "--overwrite"]) == 2
    assert "nowhere.csv" in capsys.readouterr().err
    assert contents(finished) == before


def test_a_demo_replaces_a_demo_and_no_other_run(tmp_path, capsys):
    files = DemoFiles(tmp_path)
    _check_folder(files)
    files.checkpoint.write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"contains a run that is no demo \(last.ckpt\)"):
        _check_folder(files)
    files.overlay.write_text("{}")
    _check_folder(files)
    assert "replacing the demo in this folder" in capsys.readouterr().out
    assert files.checkpoint.exists()
