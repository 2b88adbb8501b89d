"""TorchBackends: switches of torch during a fit, on the screen and in the environment of a run."""

from __future__ import annotations

import pytest
import torch
from lightning.pytorch import Callback

from clipkit.errors import ConfigError
from clipkit.training.callbacks import TorchBackends
from clipkit.training.loggers.environment import environment_of
from clipkit.training.preflight.plan import make_plan
from clipkit.training.preflight.screen import lines
from tests.helpers import tiny


def switches():
    return torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark


class Watch(Callback):
    def __init__(self, fails: bool = False) -> None:
        self.seen, self.fails = None, fails

    def on_train_start(self, trainer, pl_module):
        self.seen = switches()
        self.environment = environment_of(trainer)
        rows = dict(lines(make_plan(trainer, pl_module, trainer.datamodule, 8)))
        self.row = rows["float32 products"]
        if self.fails:
            raise RuntimeError("on purpose")


@pytest.fixture(autouse=True)
def known():
    before, deterministic = switches(), torch.are_deterministic_algorithms_enabled()
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.benchmark = False
    yield
    torch.set_float32_matmul_precision(before[0])
    torch.backends.cudnn.benchmark = before[1]
    torch.use_deterministic_algorithms(deterministic)


def fit(folder, *callbacks, **options):
    trainer = tiny.trainer(folder / "run", *callbacks, max_steps=1, **options)
    trainer.fit(tiny.module(), datamodule=tiny.data(tiny.shards(folder / "data")))


def test_they_are_set_for_the_fit_and_reported(tmp_path):
    watch = Watch()
    fit(tmp_path, watch, TorchBackends())
    assert watch.seen == ("high", True)
    assert watch.row == "TF32 where the device has it (high); cudnn.benchmark on"
    recorded = watch.environment.float32_matmul_precision, watch.environment.cudnn_benchmark
    assert recorded == ("high", True)
    assert switches() == ("highest", False)


def test_they_are_restored_after_a_failure(tmp_path):
    with pytest.raises(RuntimeError, match="on purpose"):
        fit(tmp_path, TorchBackends("medium"), Watch(fails=True))
    assert switches() == ("highest", False)


def test_a_deterministic_run_measures_no_algorithms(tmp_path, caplog):
    watch = Watch()
    fit(tmp_path, watch, TorchBackends("highest"), deterministic=True)
    assert watch.seen == ("highest", False)
    assert watch.row == "float32 (highest); cudnn.benchmark off"
    assert "cudnn_benchmark: off, because of trainer.deterministic" in caplog.text


def test_without_the_callback_nothing_is_set(tmp_path):
    watch = Watch()
    fit(tmp_path, watch)
    assert watch.seen == ("highest", False)


def test_an_unknown_precision():
    with pytest.raises(ConfigError, match="expected one of highest, high, medium, got 'tf32'"):
        TorchBackends("tf32")
