"""SIGTERM and SLURM's warning through real signals, on one rank and on two."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.utilities.exceptions import SIGTERMException

from clipkit.cli.main import main
from clipkit.errors import ConfigError
from clipkit.training.callbacks import KeyLog, SaveCheckpoint, StopOnSignal
from tests.helpers import tiny
from tests.helpers.ranks import run_ranks

STEP = 3


class Signal(Callback):
    """A signal to this process in the middle of a step."""

    def __init__(self, number: int, rank: int = 0, times: int = 1) -> None:
        self.number, self.rank, self.times = number, rank, times

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == STEP - 1 and trainer.global_rank == self.rank:
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def fit(shards, run, *callbacks, ckpt=None, **options):
    callbacks = (KeyLog(str(run / "keys.txt")), *callbacks, SaveCheckpoint())
    trainer = tiny.trainer(run, *callbacks, **{"max_steps": 8, **options})
    trainer.fit(tiny.module(), datamodule=tiny.data(shards), ckpt_path=ckpt)


@pytest.fixture
def scontrol(tmp_path, monkeypatch) -> Path:
    """A ``scontrol`` on PATH that writes down how it was called."""
    calls = tmp_path / "calls.txt"
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "scontrol"
    program.write_text(
        f'#!/bin/sh\nls {tmp_path}/run/last.ckpt >/dev/null && echo "$@" >> {calls}\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    return calls


def test_sigterm_saves_after_the_step_and_loses_nothing(shards, tmp_path, scontrol):
    fit(shards, tmp_path / "whole")
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SIGTERMException):
        fit(shards, tmp_path / "run", Signal(signal.SIGTERM), StopOnSignal())
    assert signal.getsignal(signal.SIGTERM) == before
    last = tmp_path / "run" / "last.ckpt"
    assert torch.load(last)["global_step"] == STEP
    assert not scontrol.exists()  # scancel sends SIGTERM too: nobody wants that job again
    fit(shards, tmp_path / "run", StopOnSignal(), ckpt=last)
    keys = [(tmp_path / run / "keys.txt").read_text() for run in ("whole", "run")]
    assert keys[0] == keys[1]


@pytest.fixture
def listening():
    """A process that Ctrl-C ends, also where the tests run in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def signal_words(shards, run, number: int, times: int) -> list[str]:
    told = {
        "class_path": "tests.faults.test_stop_on_signal.Signal",
        "init_args": {"number": int(number), "times": times},
    }
    saver = {"class_path": "clipkit.training.callbacks.SaveCheckpoint"}
    words = tiny.words(shards, run, "--trainer.enable_checkpointing=true")
    return [*words, *(f"--trainer.callbacks+={json.dumps(one)}" for one in (told, saver))]


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("times", [1, 2, 5])
def test_interrupts_save_after_the_step_and_end_with_130(shards, tmp_path, capfd, times):
    assert main(["fit", *signal_words(shards, tmp_path, signal.SIGINT, times)]) == 130
    assert torch.load(tmp_path / "last.ckpt")["global_step"] == STEP
    said = capfd.readouterr().err
    assert said.count("stopping after this step") == 1
    assert "Traceback" not in said
    assert said.endswith("clipkit: interrupted\n")
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


class Late(Callback):
    """A second Ctrl-C while the run still waits for the end of its step."""

    def on_before_backward(self, trainer, pl_module, loss):
        if trainer.global_step == STEP - 1:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1.1)
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the second Ctrl-C was not heard")


@pytest.mark.usefixtures("listening")
def test_second_interrupt_a_second_later_ends_at_once(shards, tmp_path):
    with pytest.raises(SystemExit) as leaving:
        fit(shards, tmp_path, Late(), StopOnSignal())
    assert isinstance(leaving.value.__context__, KeyboardInterrupt)
    assert torch.load(tmp_path / "last.ckpt")["global_step"] == STEP - 1


def test_ignored_interrupts_stay_ignored(shards, tmp_path):
    """As under nohup."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        fit(shards, tmp_path, Signal(signal.SIGINT), StopOnSignal(), max_steps=4)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert torch.load(tmp_path / "last.ckpt")["global_step"] == 4


def test_two_interrupts_within_milliseconds_of_a_process(shards, tmp_path):
    log = {
        "class_path": "clipkit.training.callbacks.KeyLog",
        "init_args": {"path": f"{tmp_path}/run/keys.txt"},
    }
    saver = {"class_path": "clipkit.training.callbacks.SaveCheckpoint"}
    words = tiny.words(shards, tmp_path / "run", "--trainer.enable_checkpointing=true")
    words = [word for word in words if "max_steps" not in word]
    words += ["--trainer.max_epochs=100000", "--data.num_workers=1"]
    words += [f"--trainer.callbacks+={json.dumps(one)}" for one in (log, saver)]
    process = subprocess.Popen(
        [sys.executable, "-m", "clipkit.cli.main", "fit", *words],
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    keys = tmp_path / "run" / "keys.txt"
    while process.poll() is None and not (keys.exists() and keys.stat().st_size):
        time.sleep(0.01)
    for _ in range(2):
        os.killpg(process.pid, signal.SIGINT)  # a terminal reaches the workers too
        time.sleep(0.005)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    step = max(int(line.split()[0]) for line in keys.read_text().splitlines())
    assert torch.load(tmp_path / "run" / "last.ckpt")["global_step"] == step


def test_windows_of_accumulated_gradients_are_finished(shards, tmp_path):
    with pytest.raises(SIGTERMException):
        fit(
            shards,
            tmp_path,
            Signal(signal.SIGTERM),
            StopOnSignal(),
            accumulate_grad_batches=2,
        )
    assert torch.load(tmp_path / "last.ckpt")["global_step"] == STEP


@pytest.mark.parametrize("array", [False, True])
def test_warning_of_slurm_requeues_the_job_once_it_is_saved(
    shards, tmp_path, scontrol, monkeypatch, array
):
    if array:
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "4700")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "11")
    with pytest.raises(SIGTERMException):
        fit(shards, tmp_path / "run", Signal(signal.SIGUSR1), StopOnSignal())
    assert scontrol.read_text() == f"requeue {'4700_11' if array else '4711'}\n"


def test_missing_scontrol_is_said(shards, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SIGTERMException):
        fit(shards, tmp_path / "run", Signal(signal.SIGUSR1), StopOnSignal())
    assert "scontrol did not run" in caplog.text


def test_unknown_signal_is_refused():
    with pytest.raises(ConfigError, match=r"requeue_signal: expected .*got 'USR1'"):
        StopOnSignal("USR1")


def stop_rank(rank: int, world_size: int, shards: Path, run: Path) -> str:
    told = Signal(signal.SIGTERM, rank=1)
    try:
        fit(shards, run, told, StopOnSignal(), devices=world_size, strategy="ddp", max_epochs=9)
    except SIGTERMException:
        return "stopped"
    return "ended"


def test_one_rank_is_told_and_all_stop_at_the_same_step(shards, tmp_path):
    assert run_ranks(stop_rank, 2, shards, tmp_path) == ["stopped", "stopped"]
    step = torch.load(tmp_path / "last.ckpt")["global_step"]
    assert step in (STEP, STEP + 1)
    lines = (tmp_path / "keys.txt").read_text().splitlines()
    assert sorted({tuple(line.split()[:2]) for line in lines}) == [
        (str(n), rank) for n in range(1, step + 1) for rank in ("0", "1")
    ]


def test_command_ends_with_143(shards, tmp_path):
    words = signal_words(shards, tmp_path, signal.SIGTERM, 1)
    assert main(["fit", *words]) == 143
    assert main(["fit", *words, "--ckpt_path=last", "--trainer.max_steps=5"]) == 0
    assert torch.load(tmp_path / "last.ckpt")["global_step"] == 5
