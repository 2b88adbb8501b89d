"""Exceptions for users of clipkit.

Every message names the file, key or option, what was expected, what was found, and how to fix it.
Programming errors inside clipkit are ``assert`` statements.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from clipkit.shown_text import shown_text

__all__ = [
    "CheckpointError",
    "ClipkitError",
    "ConfigError",
    "DataError",
    "FaultBudgetExceeded",
    "MetricError",
    "NonFiniteError",
    "RankLostError",
    "SampleError",
    "ShardError",
]

_LONGEST_REASON: Final = 400


class ClipkitError(Exception):
    """Base of everything that clipkit raises on purpose.

    Examples:
        >>> raise ConfigError("trainer.max_steps: expected a positive number, got 0")
        Traceback (most recent call last):
        ...
        clipkit.errors.ConfigError: trainer.max_steps: expected a positive number, got 0
    """


class ConfigError(ClipkitError, ValueError):
    """An option, or a combination of options, that cannot work."""


class CheckpointError(ClipkitError):
    """A checkpoint that cannot be read, is incomplete, or belongs to another architecture."""


class DataError(ClipkitError):
    """Something is wrong with the data of the user."""


class ShardError(DataError):
    """A shard is missing, truncated, changed or not a tar file."""


class SampleError(DataError):
    """One sample cannot be used; a stream skips it, names it and counts it.

    Args:
        reason: What is wrong, without the name of the sample. Reasons quote what was found, and are
            logged and stored in checkpoints: a long one is truncated, control characters become
            escapes.
        shard: URL of the shard.
        key: Key of the sample inside the shard.
    """

    def __init__(self, reason: str, *, shard: str = "", key: str = "") -> None:
        reason = shown_text(reason)
        is_short = len(reason) <= _LONGEST_REASON
        self.reason = reason if is_short else f"{reason[:_LONGEST_REASON]} ..."
        self.shard = shard
        self.key = key
        where = "/".join(part for part in (shard, key) if part)
        super().__init__(f"{where}: {self.reason}" if where else self.reason)

    def __reduce__(self) -> tuple[object, tuple[str]]:
        """Keep the fields when a worker process passes the error on."""
        return partial(SampleError, shard=self.shard, key=self.key), (self.reason,)


class FaultBudgetExceeded(DataError):
    """More samples or shards are bad than the run allows."""


class MetricError(ClipkitError, ValueError):
    """A metric got values that make its result wrong (NaN, a collapsed shape)."""


class NonFiniteError(ClipkitError):
    """A loss, a gradient or a score is NaN or infinite."""


class RankLostError(ClipkitError):
    """A process of a run with several ranks ended or was stopped."""


def check_at_least(option: str, value: float | None, least: float) -> None:
    """Refuse a number below the smallest one; None passes."""
    if value is not None and value < least:
        raise ConfigError(f"{option}: expected at least {least}, got {value}")


def check_range(option: str, value: float, low: float, high: float) -> float:
    """Return a number if it is in a range, bounds included."""
    if not low <= value <= high:
        raise ConfigError(f"{option}: expected {low:g} to {high:g}, got {value}")
    return value


def check_choice(option: str, value: object, choices: Iterable[str]) -> None:
    """Refuse a value that is none of the choices."""
    if value not in (known := tuple(choices)):
        raise ConfigError(f"{option}: expected one of {', '.join(known)}, got {value!r}")


@contextmanager
def naming(path: Path | str) -> Iterator[None]:
    """Name a file in errors of the operating system that name none, such as of a full disk.

    Examples:
        >>> with naming("out.json"):
        ...     raise OSError(28, "No space left on device")
        Traceback (most recent call last):
        ...
        OSError: [Errno 28] No space left on device: 'out.json'
    """
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def first_line(error: BaseException) -> str:
    r"""Return the first line of an error's message, or its type if it has no message.

    Examples:
        >>> first_line(ValueError("no such layer\nin the model")), first_line(KeyError())
        ('no such layer', 'KeyError')
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
