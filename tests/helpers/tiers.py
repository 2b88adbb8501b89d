"""Which folders of tests are fast and which are long, and what a fast test must not start."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing.context import ForkServerProcess, SpawnProcess
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

FAST: Final = ("data", "losses", "metrics", "models", "optim")
"""Folders without an interpreter, a spawned process or a trainer: `make test-fast`."""

LONG: Final = ("faults", "launch", "sweeps")
"""Folders that kill, restart, fuzz and repeat real runs for minutes: `make test-all` only."""

STARTS: Final = ("distributed", "export", "processes", "tuning")
"""Folders of tests that start processes for many seconds each."""

_INTERPRETERS: Final = ("python", "torchrun", "clipkit")


def forbid_slow_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test fail that starts an interpreter, a spawned process or a trainer.

    Workers that are forked and other programs, such as the commands of ``pipe:`` shards, are quick.

    Args:
        monkeypatch: The test's own; it ends the ban.
    """
    start_program = subprocess.Popen.__init__

    def checked(self: Any, args: Any, *more: Any, **options: Any) -> None:
        program = args if isinstance(args, str | bytes | os.PathLike) else args[0]
        if Path(os.fsdecode(program).partition(" ")[0]).name.startswith(_INTERPRETERS):
            _fail("an interpreter", "tests/processes")
        start_program(self, args, *more, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", checked)
    for process in (SpawnProcess, ForkServerProcess):
        monkeypatch.setattr(
            process, "start", lambda _self: _fail("a spawned process", "tests/distributed")
        )
    if lightning := sys.modules.get("lightning.pytorch"):
        monkeypatch.setattr(lightning.Trainer, "__init__", lambda *_, **__: _fail_of_trainer())
    else:
        monkeypatch.setattr(sys, "meta_path", [_NoLightning(), *sys.meta_path])


class _NoLightning:
    """A finder of modules that fails where a test imports Lightning, which takes seconds."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        if name == "lightning":
            _fail_of_trainer()


def _fail_of_trainer() -> NoReturn:
    _fail("Lightning or its trainer", "tests/training")


def _fail(started: str, folder: str) -> NoReturn:
    pytest.fail(f"a test of `make test-fast` started {started}: move it to {folder}")
