"""Threads that scan a collection, each with one thread of torch.

A tile of an exact search fits into the cache of one core, and takes less than a millisecond. If
torch shares each operation on it among its threads, these wait for each other at every operation:
one query over a million rows took 835 ms with two threads and 193 ms with one. So each tile belongs
to one thread.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import torch

Result = TypeVar("Result")


def run_on_threads(function: Callable[[], Result], most: int) -> list[Result]:
    """Call a function on as many threads as torch has in this one, and return all results.

    Args:
        function: Takes its share of the work from a common iterator.
        most: Number of shares; more threads are not used. With one, this thread does the work.

    Raises:
        Exception: The first one of the calls, after all of them have ended.

    Examples:
        >>> numbers = iter(range(100))
        >>> sum(run_on_threads(lambda: sum(numbers), most=4))
        4950
    """
    num_threads = min(torch.get_num_threads(), most)
    if num_threads <= 1:
        return [function()]
    pool = _threads(num_threads)
    started = [pool.submit(function) for _ in range(num_threads)]
    errors = [error for error in (each.exception() for each in started) if error is not None]
    if errors:
        raise errors[0]
    return [each.result() for each in started]


@cache
def _threads(num_threads: int) -> ThreadPoolExecutor:
    """Start threads whose torch uses one thread each."""
    here = torch.get_num_threads()
    ready = threading.Barrier(num_threads + 1)

    def start() -> None:
        torch.get_num_threads()  # applies the default, which would replace the number later
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(num_threads, "search", initializer=start)
    for _ in range(num_threads):
        pool.submit(int)
    ready.wait()
    # The number of the thread that calls is also the default of threads that start later.
    torch.set_num_threads(here)
    return pool


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.cache_clear)
