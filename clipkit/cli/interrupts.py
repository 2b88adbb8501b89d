"""End a command by Ctrl-C once, even if it is pressed several times."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, final

_IGNORED_SECONDS: Final = 1.0


@contextmanager
def one_interrupt(ends_process: bool) -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` for the first Ctrl-C, and ignore those of the next second.

    A second signal within milliseconds (a bouncing key, a launcher that forwards the signal) would
    interrupt the handling of the first one and end in a traceback. An existing handler is kept,
    and so is the setting of a process that ignores Ctrl-C (``nohup``).
    If the process ends after the command, interrupts that ``ignore_interrupts`` ignores stay so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.getsignal(signal.SIGINT)
    if previous == signal.default_int_handler:
        signal.signal(signal.SIGINT, _Once())
    try:
        yield
    finally:
        is_ignored = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        if previous is not None and not (ends_process and is_ignored):
            signal.signal(signal.SIGINT, previous)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C from now on, while an interrupted command ends."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@final
class _Once:
    """Signal handler that ignores signals for a second after it was called."""

    def __init__(self) -> None:
        self._called_at: float | None = None

    def __call__(self, *_: Any) -> None:
        now = time.monotonic()
        if self._called_at is None or now - self._called_at >= _IGNORED_SECONDS:
            self._called_at = now
            raise KeyboardInterrupt
