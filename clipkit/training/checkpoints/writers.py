"""When checkpoints are written: at once, or in the background of training."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

from clipkit.errors import CheckpointError
from clipkit.training.checkpoints.staging import HostStage


@dataclass(frozen=True, slots=True)
class Written:
    """Result of a write on this rank.

    Args:
        num_bytes: Bytes of the files; 0 on a rank that wrote none.
        seconds: Duration of the write.
        problem: Why the write failed; empty if it succeeded.
    """

    num_bytes: int = 0
    seconds: float = 0.0
    problem: str = ""


Action = Callable[[Any, Any], int]
"""Function that writes a content, with a process group for its exchanges (None for the default
one), and returns the number of bytes."""


class CheckpointWriter(ABC):
    """Writes the checkpoint that a rank was given, and then calls a function.

    Attributes:
        is_background: Whether ``start`` returns before the write has ended.
    """

    is_background: bool

    @abstractmethod
    def give(self, content: Any, action: Action) -> None:
        """Take over a content and the function that writes it.

        Raises:
            OSError: If it cannot be written, and this writer writes at once.
        """

    @abstractmethod
    def start(self, afterwards: Callable[[], None]) -> None:
        """Write what was given, then call a function; all ranks have given theirs."""

    @property
    @abstractmethod
    def is_busy(self) -> bool:
        """Whether a write has not ended yet, on this rank."""

    @abstractmethod
    def wait(self) -> Written:
        """Return the result of the last write when it has ended."""


@final
class WriteAtOnce(CheckpointWriter):
    """Writes while training waits."""

    is_background = False

    def __init__(self) -> None:
        self._result = Written()

    def give(self, content: Any, action: Action) -> None:
        """Write."""
        begin = time.monotonic()
        self._result = Written()
        num_bytes = action(content, None)
        self._result = Written(num_bytes, time.monotonic() - begin)

    def start(self, afterwards: Callable[[], None]) -> None:
        """Call the function."""
        self._result = _ended(self._result, afterwards)

    @property
    def is_busy(self) -> bool:
        """Never."""
        return False

    def wait(self) -> Written:
        """Return the result of the last write."""
        result, self._result = self._result, Written()
        return result


@final
class WriteInBackground(CheckpointWriter):
    """Copies the content to host memory, and writes it in a thread while training continues.

    Python does not end before the thread does.

    Args:
        group: Process group for the exchanges of the threads of all ranks, which nothing else
            uses; None if only one rank writes.
    """

    is_background = True

    def __init__(self, group: Any = None) -> None:
        self._group = group
        self._stage = HostStage()
        self._given: tuple[Any, Action] | None = None
        self._thread: threading.Thread | None = None
        self._result = Written()

    def give(self, content: Any, action: Action) -> None:
        """Copy the content, when the previous write no longer reads the host memory."""
        if self._thread is not None:
            self._thread.join()
        self._given = self._stage.copy(content), action

    def start(self, afterwards: Callable[[], None]) -> None:
        """Start the thread."""
        given, self._given = self._given, None
        self._result = Written(problem="the write has not ended")
        self._thread = threading.Thread(
            target=self._write, args=(given, afterwards), name="checkpoint"
        )
        self._thread.start()

    @property
    def is_busy(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def wait(self) -> Written:
        """Return the result of the last write when its thread has ended."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        result, self._result = self._result, Written()
        return result

    def _write(self, given: tuple[Any, Action] | None, afterwards: Callable[[], None]) -> None:
        begin = time.monotonic()
        try:
            num_bytes = 0
            if given is not None:
                content, action = given
                self._stage.wait()
                num_bytes = action(content, self._group)
            self._result = _ended(Written(num_bytes, time.monotonic() - begin), afterwards)
        except Exception as error:  # raised or logged by the thread that waits
            self._result = Written(problem=reason_of(error))


def reason_of(error: BaseException) -> str:
    """Return the reason of a failed write for a message."""
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"{type(error).__name__}: {error}"


def _ended(written: Written, afterwards: Callable[[], None]) -> Written:
    begin = time.monotonic()
    try:
        afterwards()
    except (OSError, CheckpointError) as error:
        return Written(problem=reason_of(error))
    return Written(written.num_bytes, written.seconds + time.monotonic() - begin)
