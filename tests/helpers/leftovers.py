"""Threads and processes of loaders that a test must not leave."""

from __future__ import annotations

import multiprocessing
import threading
import time
from typing import Any, final


@final
class Leftovers:
    """Threads of loaders and child processes that began after this object.

    Streams that other tests of the process still hold do not count.
    """

    def __init__(self) -> None:
        self._before = _running()

    def now(self) -> list[Any]:
        """Those that are running."""
        return [one for one in _running() if one not in self._before]

    def num_processes(self) -> int:
        """The number of processes among them."""
        return sum(not isinstance(one, threading.Thread) for one in self.now())

    def wait(self, seconds: float = 60.0) -> None:
        """Wait until none is left."""
        deadline = time.monotonic() + seconds
        while self.now():
            assert time.monotonic() < deadline, self.now()
            time.sleep(0.01)


def _running() -> list[Any]:
    threads = [t for t in threading.enumerate() if t.name == "clipkit-batches"]
    return [*threads, *multiprocessing.active_children()]
