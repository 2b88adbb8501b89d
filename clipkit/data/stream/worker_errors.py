"""Errors of worker processes on their way to the main process."""

from __future__ import annotations

import pickle
import traceback
from dataclasses import dataclass
from typing import Protocol, final

from clipkit.data.order.partition import BatchTask
from clipkit.data.stream.builder import BuildResult
from clipkit.errors import ClipkitError


class Builder(Protocol):
    """Builds the samples of a task, in a worker process."""

    def build(self, task: BatchTask) -> BuildResult:
        """Build the samples of a task, which may be a part of a batch."""
        ...


@dataclass(frozen=True, slots=True)
class Failure:
    """An error of a worker."""

    error: Exception


@final
class GuardedBuilder:
    """Returns errors instead of raising them: a loader would wrap them into other text."""

    def __init__(self, builder: Builder) -> None:
        self._builder = builder

    def __getitem__(self, task: BatchTask) -> BuildResult | Failure:
        try:
            return self._builder.build(task)
        except Exception as error:
            return Failure(_portable(error))


def _portable(error: Exception) -> Exception:
    """Return the error so that another process can raise it, with a note of its origin."""
    trace = "".join(traceback.format_exception(error))
    try:
        portable: Exception = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
        assert isinstance(portable, type(error))
    except Exception:
        portable = RuntimeError(f"{type(error).__name__}: {error}")
    if not isinstance(error, ClipkitError):
        portable.add_note(f"in a worker process:\n{trace}")
    return portable
