"""The scripts that start runs: two hosts of network namespaces, and a SLURM job."""

from __future__ import annotations

import csv
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.helpers import tiny
from tests.helpers.ranks import free_port

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / "tools"
CALLBACKS = "clipkit.training.callbacks"


def words(shards: Path, run: Path, *callbacks: dict[str, Any]) -> list[str]:
    """A run of four steps that leaves its losses, its keys and its last checkpoint."""
    log = {"class_path": f"{CALLBACKS}.KeyLog", "init_args": {"path": str(run / "keys.txt")}}
    saver = {"class_path": f"{CALLBACKS}.SaveCheckpoint"}
    metrics = {"class_path": "clipkit.training.MetricsCsv", "init_args": {"save_dir": "auto"}}
    config = {
        "enable_checkpointing": True,
        "log_every_n_steps": 1,
        "logger": [metrics],
        "callbacks": [log, saver, *callbacks],
    }
    run.mkdir()
    (run / "trainer.yaml").write_text(yaml.safe_dump({"trainer": config}))
    decided = ("--trainer.logger", "--trainer.enable_checkpointing")
    flags = [word for word in tiny.words(shards, run) if not word.startswith(decided)]
    return ["-c", str(run / "trainer.yaml"), *flags]


def environment(**more: str) -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": ":".join(paths), **more}


def losses(run: Path) -> list[str]:
    """As they were written, digit by digit."""
    with (run / "metrics.csv").open() as file:
        return [row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]]


def allows_namespaces() -> bool:
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"clipkit-probe-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False)
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made.returncode == 0


@pytest.mark.skipif(not allows_namespaces(), reason="network namespaces are not allowed here")
def test_two_hosts_train_as_one_with_two_ranks(shards, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    ddp = "--trainer.strategy=ddp"
    alone = {
        "NNODES": "1", "NODE_RANK": "0", "PER_NODE": "2",
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port()),
    }  # fmt: skip
    for run, script, variables in (
        (one, "multi_node.sh", alone),
        (two, "two_hosts.sh", {}),
    ):
        command = [str(TOOLS / script), *words(shards, run), ddp]
        variables = environment(PYTHON=sys.executable, **variables)
        done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
    assert len(losses(one)) == 4
    assert losses(two) == losses(one)
    keys = [sorted((run / "keys.txt").read_text().splitlines()) for run in (one, two)]
    assert keys[0] == keys[1]
    assert {line.split()[1] for line in keys[0]} == {"0", "1"}
    weights = [torch.load(run / "last.ckpt")["state_dict"] for run in (one, two)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_two_hosts_says_where_it_cannot_run(tmp_path):
    (tmp_path / "ip").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "ip").chmod(0o755)
    command = [str(TOOLS / "two_hosts.sh"), "-c", "nothing.yaml"]
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        command, env=environment(PATH=path), capture_output=True, text=True, check=False
    )
    assert done.returncode == 77
    assert "no network namespaces" in done.stderr


def test_slurm_job_that_runs_out_of_time_is_saved_and_queued_again(shards, tmp_path):
    """The real batch script and command; ``srun`` and ``scontrol`` are ours."""
    programs = {
        "srun": (
            'shift\nexport SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_STEP_ID=0\nexec "$@"'
        ),
        "clipkit": f'exec {sys.executable} -m clipkit.cli.main "$@"',
        "scontrol": f'test -f {tmp_path}/run/last.ckpt && echo "$@" >> {tmp_path}/calls.txt',
    }
    for name, body in programs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    warning = {
        "class_path": "tests.faults.test_stop_on_signal.Signal",
        "init_args": {"number": int(signal.SIGUSR1)},
    }
    slurm = {
        "SLURM_JOB_ID": "4711", "SLURM_JOB_NAME": "clipkit", "SLURM_NTASKS": "1",
        "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NUM_NODES": "1", "SLURM_NODELIST": "127.0.0.1",
    }  # fmt: skip
    variables = environment(PATH=f"{tmp_path}:{os.environ['PATH']}", **slurm)
    command = ["bash", str(TOOLS / "slurm" / "fit.sbatch")]
    command += words(shards, tmp_path / "run", warning)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 143, done.stderr[-3000:]
    assert (tmp_path / "calls.txt").read_text() == "requeue 4711\n"
    assert torch.load(tmp_path / "run" / "last.ckpt")["global_step"] == 3


@pytest.mark.parametrize(
    ("status", "crashes", "calls"),
    [
        (1, [], "requeue 4711\n"),
        (137, [2], "requeue 4711\n"),
        (1, [3], None),
        (2, [], None),
        (143, [], None),
        (0, [], None),
    ],
)
def test_slurm_job_that_crashes_is_queued_a_few_times(tmp_path, status, crashes, calls):
    srun = f"echo $SRUN_CPUS_PER_TASK > cores.txt; exit {status}"
    for name, body in {"srun": srun, "scontrol": 'echo "$@" >> calls.txt'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{body}\n")
        (tmp_path / name).chmod(0o755)
    counter = tmp_path / "slurm-4711.crashes"
    for number in crashes:
        counter.write_text(str(number))
    slurm = {"SLURM_JOB_ID": "4711", "SLURM_NTASKS_PER_NODE": "1", "SLURM_JOB_NUM_NODES": "1"}
    slurm["SLURM_CPUS_PER_TASK"] = "8"
    done = subprocess.run(
        ["bash", str(TOOLS / "slurm" / "fit.sbatch"), "-c", "run.yaml"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **slurm},
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == status
    written = tmp_path / "calls.txt"
    assert (written.read_text() if written.exists() else None) == calls
    assert ("queued again" in done.stderr) == counter.exists()
    assert (tmp_path / "cores.txt").read_text() == "8\n"
