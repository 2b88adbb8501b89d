"""The check of machines with a GPU: results that survive what goes wrong, and a part on a CPU."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from tests.launch.test_launchers import ROOT, environment
from tools import gpu_check, gpu_parts, gpu_syncs
from tools.gpu_parts import Command, Plan

GOOD = 'import json, sys; print("noise"); print(json.dumps({"ms": 1}))'
SLOW = GOOD + "; sys.stdout.flush(); import time; time.sleep(600)"


def python(code: str, title: str = "tool") -> Command:
    return Command(title, [sys.executable, "-c", code])


def lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the check with a part of these commands, and one behind it; return its status."""

    def start(*commands: Command | str, limit: float = 60) -> int:
        parts = {"first": lambda plan: iter(commands), "second": lambda plan: iter([python(GOOD)])}
        monkeypatch.setattr(gpu_check, "PARTS", parts)
        words = ["gpu_check", str(tmp_path), "--dry-run", "--limit", str(limit)]
        monkeypatch.setattr(sys, "argv", words)
        monkeypatch.setattr(signal, "signal", lambda *_: None)
        return gpu_check.main()

    return start


def outcomes(folder: Path) -> list[str]:
    parts = json.loads((folder / "summary.json").read_text())["parts"]
    return [part["outcome"] for part in parts.values()]


def test_results_of_every_part_are_written(run, tmp_path):
    after = Command("with a result", [sys.executable, "-c", ""], after=lambda: {"done": True})
    assert run("no second GPU", python(GOOD), after) == 0
    assert lines(tmp_path) == [
        {"part": "first", "skipped": "no second GPU"},
        {"part": "first", "ms": 1},
        {"part": "first", "done": True},
        {"part": "second", "ms": 1},
    ]
    assert outcomes(tmp_path) == ["passed", "passed"]
    assert "noise" in (tmp_path / "first.log").read_text()
    machine = json.loads((tmp_path / "summary.json").read_text())["machine"]
    assert machine["versions"]["torch"]
    assert machine["cores"] >= 1


def test_a_part_that_fails_or_takes_too_long_ends_alone(run, tmp_path):
    broken = python("import sys; sys.exit(3)", "broken")
    assert run(broken, python(SLOW, "slow"), python(GOOD, "late"), limit=2) == 1
    rows = lines(tmp_path)
    assert rows[0] == {"part": "first", "failed": "broken", "reason": "status 3"}
    assert rows[1] == {"part": "first", "ms": 1}  # written before the end
    assert [row["failed"] for row in rows[2:-1]] == ["slow", "late"]
    assert rows[-1] == {"part": "second", "ms": 1}
    assert outcomes(tmp_path) == ["failed", "passed"]


def test_what_pytest_prints_becomes_results():
    line = "tests/gpu/test_losses.py::test_equals_fp64[softmax-fp32-None-fused] PASSED       [  2%]"
    assert gpu_parts.parse_test(line) == {
        "test": "gpu/test_losses.py::test_equals_fp64[softmax-fp32-None-fused]",
        "outcome": "passed",
    }
    assert gpu_parts.parse_test("tests/gpu/test_losses.py: 2 warnings") is None


def test_one_gpu_has_no_part_of_several(tmp_path):
    assert [type(command) for command in gpu_parts.ranks(Plan(tmp_path, num_gpus=1))] == [str]
    eight = list(gpu_parts.ranks(Plan(tmp_path, num_gpus=8)))
    assert sum("torch.distributed.run" in command.words for command in eight) == 2
    assert sum("--trainer.devices=8" in command.words for command in eight) == 2
    name = "--trainer.strategy.class_path=clipkit.training.ShardedStrategy"
    assert name in eight[-1].words


def test_losses_on_a_cpu_and_an_end_in_the_middle(tmp_path):
    """The real script; a signal ends what it started, and the results so far are complete."""
    command = ["bash", str(ROOT / "tools/gpu_check.sh"), str(tmp_path), "--dry-run", "loss"]
    variables = environment(PYTHON=sys.executable)
    process = subprocess.Popen(command, cwd=tmp_path, env=variables, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 120
    while not (tmp_path / "results.jsonl").is_file() or len(lines(tmp_path)) < 6:
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.05)
    children = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGTERM)
    assert process.wait(timeout=60) == 128 + signal.SIGTERM
    assert not any(child.is_running() for child in children)
    assert outcomes(tmp_path) == ["interrupted"]
    losses = {row["name"]: row["loss"] for row in lines(tmp_path) if "loss" in row}
    assert losses["clipkit bf16"] == pytest.approx(losses["clipkit fp32"], rel=1e-2)


def test_a_machine_without_a_gpu_is_told_about_the_dry_run(tmp_path):
    command = ["bash", str(ROOT / "tools/gpu_check.sh"), str(tmp_path)]
    variables = environment(PYTHON=sys.executable, CUDA_VISIBLE_DEVICES="")
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--dry-run runs the parts on a CPU" in done.stderr


FAKE_PYTHON = """#!/usr/bin/env bash
echo "$* PEER=$PEER" >> "$CALLS"
[ "${2:-}" != venv ] || { mkdir -p "${*: -1}/bin"; cp "$0" "${*: -1}/bin/python"; }
"""


def test_paths_are_those_of_the_folder_of_the_call(tmp_path):
    """Relative ones of every option, although the parts run in the folder of the checkout."""
    for name in ("bin", "wheels", "peer"):
        (tmp_path / name).mkdir()
    interpreter = tmp_path / "bin/python"
    interpreter.write_text(FAKE_PYTHON)
    interpreter.chmod(0o755)
    calls = tmp_path / "calls.txt"
    command = ["bash", str(ROOT / "tools/gpu_check.sh"), "out", "--dry-run", "loss"]
    paths = {"PYTHON": "bin/python", "WHEELS": "wheels", "PEER": "peer"}
    variables = environment(CALLS=str(calls), **paths)
    subprocess.run(command, cwd=tmp_path, env=variables, check=True)
    lines = calls.read_text().splitlines()
    assert lines[0].startswith(f"-m venv --system-site-packages {tmp_path}/out/venv")
    assert f"--find-links {tmp_path}/wheels" in lines[1]
    assert lines[-1] == f"tools/gpu_check.py {tmp_path}/out --dry-run loss PEER={tmp_path}/peer"
    for name in paths:
        variables = environment(**{name: "none/of/these"})
        done = subprocess.run(
            command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert f"{name}: expected a path that exists, got none/of/these" in done.stderr


def test_the_wheels_of_the_recipe_are_those_that_are_installed():
    """Every extra that tests of this part import is carried to a machine without network."""
    script = (ROOT / "tools/gpu_check.sh").read_text()
    (made,) = re.findall(r"pip wheel -w WHEELS '\.\[(.*?)\]'", script)
    (installed,) = re.findall(r"'clipkit\[(.*?)\]'", script)
    assert made == installed
    assert {"fp8", "onnx"} <= set(made.split(","))


def test_only_waits_for_old_verdicts_are_counted_apart():
    """Times in a profile of two steps: the last event is that of the profiler itself."""

    def event(name: str, start: float, end: float) -> SimpleNamespace:
        return SimpleNamespace(name=name, time_range=SimpleNamespace(start=start, end=end))

    record = gpu_syncs.ProfileSyncs()
    record.count([
        event(gpu_syncs.OLD_VERDICT, 10, 20), event("cudaEventSynchronize", 12, 18),
        event("cudaEventSynchronize", 22, 25), event("cudaStreamSynchronize", 30, 31),
        event("cudaEventQuery", 32, 33), event(gpu_syncs.STOPPED, 40, 41),
        event("cudaDeviceSynchronize", 42, 43),
    ])  # fmt: skip
    assert record.old_verdicts == 1
    assert record.places == {"cudaEventSynchronize": 1, "cudaStreamSynchronize": 1}
