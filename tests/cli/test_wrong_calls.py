"""Many wrong calls of ``clipkit fit``: each is one clear line and status 2, never a traceback."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from clipkit.cli.config_files import config_path
from clipkit.cli.main import main
from tests.helpers import tiny

CALLBACKS = "clipkit.training.callbacks"
SAVING = "--trainer.enable_checkpointing=true"
VAL = "--data.val={shards}/val/*.tar"


def callbacks(*entries: tuple[str, dict[str, Any]]) -> str:
    listed = [
        {"class_path": name if "." in name else f"{CALLBACKS}.{name}", "init_args": options}
        for name, options in entries
    ]
    return f"--trainer.callbacks={json.dumps(listed)}"


def strategy(start_method: str) -> str:
    path = "lightning.pytorch.strategies.DDPStrategy"
    value = {"class_path": path, "init_args": {"start_method": start_method}}
    return f"--trainer.strategy={json.dumps(value)}"


TRAINER = {
    "accelerator=quantum": "accelerator",
    "accelerator=gpu": "gpu",
    "accelerator=tpu": "torch_xla",
    "devices=-3": "devices",
    "devices=0": "devices",
    "devices=many": "devices",
    "devices=[0,1]": "devices",
    "num_nodes=0": "trainer.num_nodes: expected at least 1, got 0",
    "num_nodes=-1": "trainer.num_nodes: expected at least 1, got -1",
    "strategy=nope": "strategy",
    "strategy=dp": "strategy",
    "strategy=fsdp": "fsdp",
    "strategy=ddp_spawn": "ddp_spawn starts its ranks in this program (spawn)",
    "strategy=ddp_fork": "use ddp, or torchrun",
    "strategy=ddp_notebook": "use ddp, or torchrun",
    "strategy=ddp_spawn_find_unused_parameters_true": "use ddp, or torchrun",
    "accumulate_grad_batches=0": "accumulate_grad_batches: expected at least 1, got 0",
    "accumulate_grad_batches=-1": "accumulate_grad_batches: expected at least 1, got -1",
    "check_val_every_n_epoch=0": "check_val_every_n_epoch: expected at least 1, got 0",
    "check_val_every_n_epoch=-1": "check_val_every_n_epoch: expected at least 1, got -1",
    "log_every_n_steps=-1": "log_every_n_steps: expected at least 0, got -1",
    "num_sanity_val_steps=-2": "num_sanity_val_steps: expected at least -1, got -2",
    "val_check_interval=0": "trainer.val_check_interval: expected a number of batches",
    "val_check_interval=-1": "val_check_interval",
    "val_check_interval=1.5": "val_check_interval",
    "val_check_interval=99": "val_check_interval",
    "precision=7": "trainer.precision",
    "max_steps=-5": "max_steps",
    "max_steps=x": "trainer.max_steps: expected int, got x",
    "max_epochs=-2": "max_epochs",
    "max_time=soon": "DD:HH:MM:SS",
    'max_time={"fortnights":1}': "trainer.max_time: expected days, hours",
    "limit_train_batches=-1": "limit_train_batches",
    "limit_val_batches=1.5": "limit_val_batches",
    "gradient_clip_val=-1": "gradient_clip_val",
    "gradient_clip_algorithm=x": "gradient_clip_algorithm",
    "profiler=nope": "profiler",
    "fast_dev_run=-1": "fast_dev_run",
    "logger=nope": "trainer.logger",
    "default_root_dir={root}/file": "trainer.default_root_dir: expected a folder, got the file",
    "default_root_dir={root}/file/run": "trainer.default_root_dir",
    "default_root_dir=/proc/run": "/proc/run",
}
OTHERS: dict[str, tuple[list[str], str]] = {
    "a rate below 0": (["--model.optimizer.lr=-1"], "model.optimizer: Invalid learning rate: -1"),
    "no rate": (["--model.optimizer.lr=.nan"], "model.optimizer: Invalid learning rate: nan"),
    "a decay below 0": (["--model.optimizer.weight_decay=-1"], "model.optimizer: Invalid weight"),
    "betas": (["--model.optimizer.betas=[2,3]"], "model.optimizer: Invalid beta"),
    "a class of optimizers": (["--model.optimizer=torch.optim.Nope"], "torch.optim has no 'Nope'"),
    "spawned ranks": (
        [strategy("spawn")],
        "ranks in this program (spawn)",
    ),
    "forked ranks": ([strategy("fork")], "ranks in this program (fork)"),
    "a checkpoint for a file": (["-c", "{root}/x.ckpt"], "x.ckpt: expected a YAML file"),
    "a folder for a file": (["-c", "{root}"], "expected a YAML file"),
    "a negative seed": (["--seed_everything=-1"], "seed_everything: expected 0 to"),
    "a large seed": (["--seed_everything=4294967296"], "seed_everything: expected 0 to"),
    "ckpt_path best": (["--ckpt_path=best"], "best.ckpt, found none; SaveCheckpoint.monitor"),
    "ckpt_path hpc": (["--ckpt_path=hpc"], "no HPC checkpoint"),
    "ckpt_path empty": (["--ckpt_path="], "ckpt_path"),
    "ckpt_path a folder": (["--ckpt_path={root}"], "checkpoint"),
    "ckpt_path unknown": (["--ckpt_path=nosuch://x/x.ckpt"], "nosuch"),
    "a metric to stop by": (
        [
            callbacks(("lightning.pytorch.callbacks.EarlyStopping", {"monitor": "val/los"})),
            "--trainer.max_epochs=2",
            "--trainer.max_steps=-1",
        ],
        "val/los",
    ),
    "savers of two metrics": (
        [
            callbacks(("SaveCheckpoint", {"monitor": "a"}), ("SaveCheckpoint", {"monitor": "b"})),
            SAVING,
        ],
        "expected one SaveCheckpoint, got 2, with monitor 'a' and 'b'",
    ),
    "savers in two folders": (
        [
            callbacks(("SaveCheckpoint", {"folder": "a"}), ("SaveCheckpoint", {"folder": "b"})),
            SAVING,
        ],
        "expected one SaveCheckpoint, got 2, with folder 'a' and 'b'",
    ),
    "a saver's folder": (
        [callbacks(("SaveCheckpoint", {"folder": "nosuch://x/y"})), SAVING],
        "nosuch",
    ),
    "no steps of a saver": (
        [callbacks(("SaveCheckpoint", {"every_n_steps": 0})), SAVING],
        "SaveCheckpoint.every_n_steps: expected more than 0, got 0",
    ),
    "a log that is a folder": ([callbacks(("KeyLog", {"path": "{root}"}))], "{root}"),
    "a log under a file": ([callbacks(("KeyLog", {"path": "{root}/file/k"}))], "{root}/file"),
    "workers": (["--data.num_workers=-1"], "num_workers: expected at least 0, got -1"),
    "a batch of validation": (
        ["--data.validation.batch_size=0"],
        "batch_size: expected at least 1",
    ),
    "a word too many": (["whatever"], "whatever"),
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("root")
    tiny.shards(root / "shards")
    (root / "file").write_text("x")
    torch.save({"weights": torch.zeros(1)}, root / "x.ckpt")
    return root


def check(root: Path, run: Path, words: list[str], expected: str, capsys: Any) -> None:
    def placed(text: str) -> str:
        return text.replace("{root}", str(root)).replace("{shards}", str(root / "shards"))

    words = [placed(word) for word in (VAL, *words)]
    assert main(["fit", *tiny.words(root / "shards", run, *words)]) == 2
    said = capsys.readouterr().err
    (line,) = [line for line in said.splitlines() if line.startswith("clipkit: error: ")]
    assert placed(expected) in line
    assert "Traceback" not in said
    assert not (run / "last.ckpt").exists()
    assert (root / "file").read_text() == "x"


@pytest.mark.parametrize(("option", "expected"), TRAINER.items(), ids=list(TRAINER))
def test_options_of_the_trainer(root, tmp_path, capsys, option, expected):
    check(root, tmp_path / "run", [f"--trainer.{option}"], expected, capsys)


@pytest.mark.parametrize("name", OTHERS)
def test_other_options(root, tmp_path, capsys, name):
    words, expected = OTHERS[name]
    check(root, tmp_path / "run", words, expected, capsys)


def test_early_stopping_goes_with_a_trainer_file(root, tmp_path):
    """The file's ``SaveCheckpoint`` and the one that a block of the documentation appends."""
    block = {
        "trainer": {
            "callbacks+": [
                {
                    "class_path": "lightning.pytorch.callbacks.EarlyStopping",
                    "init_args": {"monitor": "val/loss", "mode": "min", "patience": 5},
                },
                {
                    "class_path": f"{CALLBACKS}.SaveCheckpoint",
                    "init_args": {"monitor": "val/loss", "mode": "min"},
                },
            ]
        }
    }
    path = tmp_path / "block.yaml"
    path.write_text(json.dumps(block))
    decided = ("--trainer.enable_", "--trainer.logger", "--trainer.max_steps")
    words = tiny.words(root / "shards", tmp_path / "run")
    words = [word for word in words if not word.startswith(decided)]
    files = ["-c", str(config_path("trainer/cpu.yaml")), "-c", str(path)]
    more = [VAL.replace("{shards}", str(root / "shards")), "--trainer.max_epochs=1"]
    assert main(["fit", *files, *words, *more]) == 0
    assert (tmp_path / "run" / "best.ckpt").is_file()
    config = json.dumps(torch.load(tmp_path / "run" / "last.ckpt")["clipkit"]["config"])
    assert config.count("SaveCheckpoint") == 1
    assert '"every_n_minutes": 1.0' in config
    assert '"monitor": "val/loss", "mode": "min"' in config
