"""Prepare several samples of a batch at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar, final

_In = TypeVar("_In")
_Out = TypeVar("_Out")


@final
class Threads:
    """Maps functions over items in threads; a copy in another process starts its own.

    Args:
        count: Number of threads; 1 for the calling thread.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._pool: ThreadPoolExecutor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_pool": None}

    def map(self, function: Callable[[_In], _Out], items: Iterable[_In]) -> list[_Out]:
        """Return the results in the order of the items."""
        if self._count <= 1:
            return [function(item) for item in items]
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._count)
        return list(self._pool.map(function, items))
