"""Ctrl-C ends a command once, however often it is pressed."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, final

_PATIENCE_SECONDS: Final = 1.0


@contextmanager
def one_interrupt(for_good: bool) -> Iterator[None]:
    """Raise ``KeyboardInterrupt`` for the first Ctrl-C, and ignore those that follow at once.

    A second one within milliseconds (a key that bounces, a launcher that passes the signal on)
    would interrupt the handling of the first one, and end in a traceback. A handler that is in
    place already is left alone, and so is a process that ignores Ctrl-C (``nohup``).

    Args:
        for_good: Whether the process ends after the command; what ``ignore_interrupts`` has
            silenced then stays silent.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    former = signal.getsignal(signal.SIGINT)
    if former == signal.default_int_handler:
        signal.signal(signal.SIGINT, _Once())
    try:
        yield
    finally:
        silenced = signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        if former is not None and not (for_good and silenced):
            signal.signal(signal.SIGINT, former)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C from here on: the command has been interrupted and only has to end."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_IGN)


@final
class _Once:
    """A handler that is deaf for a while after it was heard."""

    def __init__(self) -> None:
        self._heard_at: float | None = None

    def __call__(self, *_: Any) -> None:
        now = time.monotonic()
        if self._heard_at is None or now - self._heard_at >= _PATIENCE_SECONDS:
            self._heard_at = now
            raise KeyboardInterrupt
