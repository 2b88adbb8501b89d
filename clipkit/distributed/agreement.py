"""Agreement of all ranks on success before they continue."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

from clipkit.distributed.collectives import rank, world_size
from clipkit.distributed.process_group import is_lost_connection, rank_lost
from clipkit.errors import ClipkitError, RankLostError, first_line

_Result = TypeVar("_Result")


def on_all_ranks(action: Callable[[], _Result], group: Any = None) -> list[_Result]:
    """Call a function on every rank; if it raises on one of them, all ranks raise the same.

    Args:
        action: The function.
        group: Process group of all ranks for the exchange; None for the default one.

    Raises:
        OSError: If it raises on one rank; of several ranks, other errors are raised as this one.
    """
    failed: OSError | None = None
    result = None
    try:
        result = action()
    except OSError as error:
        failed = error
    except Exception as error:
        if world_size() == 1:
            raise
        failed = OSError(_reason(error))
    answers: list[Any] = [(result, failed)]
    if world_size() > 1:
        answers = [None] * world_size()
        dist.all_gather_object(answers, (result, failed), group=group)
    for _, problem in answers:
        if problem is not None:
            raise problem
    return [result for result, _ in answers]


@contextmanager
def same_errors() -> Iterator[None]:
    """Raise on every rank if the block raises on one of them; a no-op in one process.

    Otherwise the other ranks would wait for the failed one forever. Every rank enters the block. No
    exchange of tensors inside may follow a line that may raise on one rank alone.

    Raises:
        ClipkitError: The error of another rank, with its number.
        RankLostError: If another rank cannot be reached.
    """
    failure: Exception | None = None
    try:
        yield
    except RankLostError:
        raise
    except Exception as error:
        if world_size() == 1:
            raise
        failure = error
    if world_size() == 1:
        return
    reason = None if failure is None else _reason(failure)
    reasons = _gathered(reason)
    if failure is not None:
        raise failure
    for number, text in enumerate(reasons):
        if text is not None:
            raise ClipkitError(f"rank {number}: {text}")


def of_first_rank(action: Callable[[], _Result]) -> _Result:
    """Call a function on the first rank and return its result on every rank.

    Raises:
        ClipkitError: If it raises, on every rank.

    Examples:
        >>> of_first_rank(lambda: 3)
        3
    """
    result: list[Any] = [None]
    with same_errors():
        if rank() == 0:
            result = [action()]
    if world_size() > 1:
        dist.broadcast_object_list(result, 0)
    value: _Result = result[0]
    return value


def _reason(error: Exception) -> str:
    if isinstance(error, ClipkitError | OSError):
        return str(error)
    return f"{type(error).__name__}: {first_line(error)}"


def _gathered(text: str | None) -> list[str | None]:
    """Return the text of every rank."""
    texts: list[str | None] = [None] * world_size()
    try:
        dist.all_gather_object(texts, text)
    except RuntimeError as error:
        if is_lost_connection(error):
            raise rank_lost(error) from error
        raise
    return texts
