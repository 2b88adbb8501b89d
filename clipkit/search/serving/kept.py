"""Results that are kept in bounded memory: the least recently used ones are removed."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar, final

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


@final
class LeastRecentlyUsed(Generic[Key, Value]):
    """A mapping with a bound on the sum of its values' sizes; safe for threads.

    Args:
        most: Largest sum.
        size: Size of a value; None for 1 each.
    """

    def __init__(self, most: int, size: Callable[[Value], int] | None = None) -> None:
        self._most = most
        self._size = size or (lambda _: 1)
        self._values: OrderedDict[Key, Value] = OrderedDict()
        self._total = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._values)

    def get(self, key: Key) -> Value | None:
        """Return a value; None if it is not kept."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key]

    def put(self, key: Key, value: Value) -> None:
        """Keep a value, unless it alone exceeds the bound."""
        size = self._size(value)
        with self._lock:
            if key in self._values:
                self._total -= self._size(self._values.pop(key))
            if size > self._most:
                return
            self._values[key] = value
            self._total += size
            while self._total > self._most:
                _, removed = self._values.popitem(last=False)
                self._total -= self._size(removed)


@final
class SharedResults(Generic[Key, Value]):
    """Results that are computed once, however many requests wait for them.

    A computation goes through to its end also if all requests that wait for it were cancelled, so
    that a result that takes longer than a request may last is there for a later one.

    Args:
        most: Number of results that are kept.
    """

    def __init__(self, most: int) -> None:
        self._results: LeastRecentlyUsed[Key, Value] = LeastRecentlyUsed(most)
        self._running: dict[Key, asyncio.Task[Value]] = {}

    async def get(self, key: Key, compute: Callable[[], Awaitable[Value]]) -> Value:
        """Return a kept result, or wait for its computation, which is started if it does not run.

        Raises:
            Exception: As ``compute``, for all that wait; the next call computes again.
        """
        kept = self._results.get(key)
        if kept is not None:
            return kept
        if key not in self._running:
            self._running[key] = asyncio.create_task(self._compute(key, compute))
        return await asyncio.shield(self._running[key])

    async def _compute(self, key: Key, compute: Callable[[], Awaitable[Value]]) -> Value:
        try:
            result = await compute()
            self._results.put(key, result)
            return result
        finally:
            del self._running[key]
