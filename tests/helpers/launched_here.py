"""Runs that ``launch_fit`` starts, in the process of the test: an interpreter takes seconds."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from clipkit.cli.main import main


class RunHere:
    """What ``launch_fit`` needs of a process: the command runs at once."""

    def __init__(self, command: list[str], stdout: Any = None, stderr: Any = None) -> None:
        assert command[:3] == [sys.executable, "-m", "clipkit.cli.main"]
        assert stderr == (stdout and subprocess.STDOUT)
        with contextlib.ExitStack() as stack:
            if stdout is not None:
                stack.enter_context(contextlib.redirect_stdout(stdout))
                stack.enter_context(contextlib.redirect_stderr(stdout))
            self._status = main(command[3:])

    def wait(self) -> int:
        return self._status


def launch_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let ``launch_fit`` run ``clipkit fit`` in this process."""
    here = SimpleNamespace(Popen=RunHere, STDOUT=subprocess.STDOUT)
    monkeypatch.setattr("clipkit.training.launch.subprocess", here)
