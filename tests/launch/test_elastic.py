"""torchrun that starts ranks again: after one of four was killed, and with a machine less."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import torch
import yaml
from lightning.pytorch import Callback

from clipkit.cli.main import main
from clipkit.models.files.sharded import read_checkpoint
from tests.helpers import tiny
from tests.helpers.ranks import free_port
from tests.launch.test_launchers import TOOLS, environment

STEPS, PAIRS = 8, 41
QUICK = "last_call_timeout=5"


class KillOnce(Callback):
    """Kills a rank of the second machine in the first launch, or the complete machine."""

    def __init__(self, whole_machine: bool, step: int = 3) -> None:
        self.whole_machine, self.step = whole_machine, step

    def on_before_backward(self, trainer, pl_module, loss):
        is_first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" and trainer.world_size == 4
        if is_first and trainer.global_step == self.step and trainer.global_rank == 3:
            if self.whole_machine:
                os.killpg(os.getpgid(os.getppid()), signal.SIGKILL)
            os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_rank_of_four_is_started_again(tmp_path):
    """Started by the command of the Kubernetes recipe, with the variables of its operator."""
    keys = run_two_machines(tmp_path, "2:2", whole_machine=False, is_pod=True)
    assert [len(step) for step in keys] == [8] * STEPS
    check_epochs(keys)
    check_weights(tmp_path, 8)


def test_the_run_continues_on_the_machine_that_is_left(tmp_path):
    keys = run_two_machines(tmp_path, "1:2", whole_machine=True)
    sizes = [len(step) for step in keys]
    assert sizes[:3] == [8, 8, 8]
    assert set(sizes[3:]) == {4}
    assert sum(sizes) == STEPS * 8  # as many samples as with all machines
    check_epochs(keys)
    check_weights(tmp_path, 4, "--ckpt_path", str(tmp_path / "run/step=3.ckpt"))


def run_two_machines(
    folder: Path, nnodes: str, whole_machine: bool, is_pod: bool = False
) -> list[list[str]]:
    """Start two agents of torchrun with two ranks each; return the keys of each step."""
    tiny.shards(folder / "shards", (20, PAIRS - 20))
    run = folder / "run"
    run.mkdir()
    options = {
        "tests.launch.test_elastic.KillOnce": {"whole_machine": whole_machine},
        "clipkit.training.callbacks.KeyLog": {"path": str(run / "keys.txt")},
        "clipkit.training.callbacks.SaveCheckpoint": {"every_n_steps": 1, "keep_every_n_steps": 3},
    }
    callbacks = [{"class_path": name, "init_args": given} for name, given in options.items()]
    trainer = {"callbacks": callbacks, "enable_checkpointing": True, "strategy": "ddp"}
    (run / "trainer.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    flags = ["-c", str(run / "trainer.yaml"), *tiny.words(folder / "shards", run)]
    flags.remove("--trainer.enable_checkpointing=false")
    flags += ["--trainer.max_steps", str(STEPS), "--data.batch_size", "2"]
    port, logs = str(free_port()), []
    agents = []
    for number in range(2):
        command, variables = pod(nnodes, port) if is_pod else machine(nnodes, port, number)
        logs.append(folder / f"agent{number}.log")
        agents.append(
            subprocess.Popen(
                [*command, *flags], env=variables, cwd=TOOLS.parent,
                stdout=logs[-1].open("w"), stderr=subprocess.STDOUT, start_new_session=True,
            )
        )  # fmt: skip
        time.sleep(1)  # the first agent holds the store
    try:
        status = agents[0].wait(timeout=240)
        assert status == 0, logs[0].read_text()[-4000:]
    finally:
        for agent in agents:
            end(agent)
    return steps_of(run)


def check_weights(folder: Path, pairs: int, *flags: str) -> None:
    """Compare the last weights with those of an undisturbed process with the joined batches."""
    alone = folder / "alone"
    words = [*tiny.words(folder / "shards", alone), f"--data.batch_size={pairs}", *flags]
    words.remove("--trainer.enable_checkpointing=false")
    saver = "--trainer.callbacks+=clipkit.training.callbacks.SaveCheckpoint"
    assert main(["fit", *words, saver, f"--trainer.max_steps={STEPS}"]) == 0
    expected, found = (
        tiny.comparable(read_checkpoint(run / "last.ckpt")["state_dict"])
        for run in (alone, folder / "run")
    )
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4, msg=name)


def machine(nnodes: str, port: str, number: int) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a machine without a scheduler."""
    variables = environment(
        NNODES=nnodes, NODE_RANK=str(number), PER_NODE="2", MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port, MAX_RESTARTS="2", PYTHON=sys.executable, RDZV_CONF=QUICK,
    )  # fmt: skip
    return ["bash", str(TOOLS / "multi_node.sh")], variables


def pod(nnodes: str, port: str) -> tuple[list[str], dict[str, str]]:
    """Command and environment of a pod of the Kubernetes recipe, on this machine."""
    job = yaml.safe_load((TOOLS / "kubernetes/pytorchjob.yaml").read_text())
    template = job["spec"]["pytorchReplicaSpecs"]["Worker"]["template"]
    container = template["spec"]["containers"][0]
    variables = environment(
        PET_NNODES=nnodes, PET_NPROC_PER_NODE="2", PET_RDZV_BACKEND="c10d", PET_MAX_RESTARTS="2",
        PET_RDZV_ENDPOINT=f"127.0.0.1:{port}", PYTHON=sys.executable, RDZV_CONF=QUICK,
    )  # fmt: skip
    return [*container["command"], *container["args"][:2]], variables


def end(agent: subprocess.Popen[bytes]) -> None:
    """Kill an agent with its ranks, which have sessions of their own."""
    if agent.poll() is None:
        for process in [*psutil.Process(agent.pid).children(recursive=True), agent]:
            process.kill()
    agent.wait()


def steps_of(run: Path) -> list[list[str]]:
    steps: dict[int, list[str]] = {}
    for line in (run / "keys.txt").read_text().splitlines():
        step, _, key = line.split(maxsplit=2)
        steps.setdefault(int(step), []).append(key)
    return [steps[step] for step in sorted(steps)]


def check_epochs(keys: list[list[str]]) -> None:
    """No sample of an epoch is left out or trained on twice, whatever was killed."""
    order = [key for step in keys for key in step]
    complete = PAIRS // 8 * 8
    assert len(set(order[:complete])) == complete
    assert len(set(order[complete:])) == len(order) - complete
