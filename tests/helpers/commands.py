"""Commands in processes that are forked from the server of ranks; an interpreter takes seconds."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import sys
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import NoReturn

import torch

from clipkit.cli.main import main
from tests.helpers.ranks import fork_server, run_ranks

SECONDS = 200


class Command:
    """A process that runs ``clipkit``; it is about to when the constructor returns.

    Args:
        words: Words of the command.
        log: File for what it prints.
    """

    def __init__(self, words: list[str], log: Path) -> None:
        self._log = log
        context = fork_server()
        ready = context.Event()
        self.process = context.Process(target=_run, args=(words, log, ready))
        self.process.start()
        assert ready.wait(SECONDS)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.process.kill()
        self.process.join(SECONDS)

    def end(self) -> str:
        """Wait until it succeeded; return what it printed."""
        self.process.join(SECONDS)
        assert self.process.exitcode == 0, self._log.read_text()
        return self._log.read_text()


def _run(words: list[str], log: Path, ready: Event) -> NoReturn:
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(1)
    # As in an interpreter: workers of a server of their own do not notice that a run was killed.
    multiprocessing.set_start_method("fork", force=True)
    ready.set()
    sys.exit(main(words))


def command_on_ranks(words: list[str], num_ranks: int) -> list[tuple[int, str]]:
    """Run a command on ranks that find each other by torchrun's environment.

    Returns:
        Its status on each rank, and what it printed to standard output.
    """
    return run_ranks(_run_on_rank, num_ranks, words, joined=False)


def _run_on_rank(rank: int, world_size: int, words: list[str]) -> tuple[int, str]:
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        status = main(words)
    return status, output.getvalue()
