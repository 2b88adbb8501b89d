"""Results that are computed once within a block, such as the embeddings that several tasks use."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final, TypeVar, cast

_Result = TypeVar("_Result")

_MEMORY: Final = ContextVar[dict[Hashable, tuple[object, object]] | None]("memory", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Compute the embeddings of a data set, and the scores of a classifier, once within this block.

    The encoder must not change within the block. What was computed is released at its end; a block
    inside another one uses what that has computed.

    Examples:
        >>> with remembering():
        ...     recalls = Retrieval("data/val").run(encoder)
        ...     accuracy = ZeroShotClassification("data/val").run(encoder)  # no image is read again
    """
    outer = _MEMORY.get()
    token = _MEMORY.set({} if outer is None else outer)
    try:
        yield
    finally:
        _MEMORY.reset(token)


def recall(key: Hashable, owners: object, compute: Callable[[], _Result]) -> _Result:
    """Return a result that was computed within the same block ``remembering``, or compute it.

    Args:
        key: What the result depends on; objects without a value as their ``id``.
        owners: The objects whose ``id`` is part of the key; they are kept alive.
        compute: Function that computes the result.

    Examples:
        >>> with remembering():
        ...     recall("key", None, lambda: [1]) is recall("key", None, lambda: [1])
        True
    """
    memory = _MEMORY.get()
    if memory is None:
        return compute()
    if key not in memory:
        memory[key] = (compute(), owners)
    return cast(_Result, memory[key][0])


def is_remembered(key: Hashable) -> bool:
    """Return whether ``recall`` would compute nothing."""
    memory = _MEMORY.get()
    return memory is not None and key in memory
