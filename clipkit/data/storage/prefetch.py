"""Transfer what will be read soon, in the background."""

from __future__ import annotations

import itertools
import logging
import os
import queue
import threading
from collections.abc import Callable, Hashable, Iterable
from typing import Final, Generic, TypeVar, final

_LOG = logging.getLogger(__name__)
_THREADS: Final = 4
Job = TypeVar("Job", bound=Hashable)


@final
class Prefetcher(Generic[Job]):
    """Runs transfers in the background, each once at a time.

    A transfer that fails is retried, and its error reported, when the data are read.

    Args:
        transfer: Transfers the data of a job into a cache.
    """

    def __init__(self, transfer: Callable[[Job], object]) -> None:
        self._transfer = transfer
        self._lock = threading.Lock()
        self._process = 0

    def request(self, jobs: Iterable[Job], *, wait: bool = False) -> None:
        """Start these transfers, unless they are under way.

        Args:
            jobs: The transfers.
            wait: Whether to return after their ends, and start them before others.
        """
        self._start()
        ends = []
        for job in jobs:
            with self._lock:
                end = self._under_way.get(job)
                if end is None:
                    end = self._under_way[job] = threading.Event()
                    self._wanted.put((not wait, next(self._numbers), job))
            ends.append(end)
        for end in ends if wait else []:
            end.wait()

    def _start(self) -> None:
        with self._lock:
            if self._process == os.getpid():  # threads do not survive a fork
                return
            self._process = os.getpid()
            self._numbers = itertools.count()
            self._wanted: queue.PriorityQueue[tuple[bool, int, Job]] = queue.PriorityQueue()
            self._under_way: dict[Job, threading.Event] = {}
        for number in range(_THREADS):
            # Daemons: a worker that ends must not wait for a transfer.
            threading.Thread(target=self._work, name=f"prefetch-{number}", daemon=True).start()

    def _work(self) -> None:
        while True:
            _, _, job = self._wanted.get()
            try:
                self._transfer(job)
            except Exception as error:
                _LOG.debug("prefetch of %s failed: %s", job, error)
            finally:
                with self._lock:
                    self._under_way.pop(job).set()
