"""Threads for work that must not block the event loop, with bounded queues."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from queue import SimpleQueue
from typing import Final, Generic, ParamSpec, TypeVar, final

from clipkit.search.serving.failures import HttpError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")
Item = TypeVar("Item")
_RETRY_SECONDS: Final = 1


@final
class DaemonThreads(Executor):
    """Threads that do not keep the process alive, other than those of ``ThreadPoolExecutor``.

    A computation that takes a minute must not delay the end of the server by a minute.

    Args:
        num_threads: Number of threads.
        name: Prefix of their names.
    """

    def __init__(self, num_threads: int, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._is_closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True)
            for number in range(num_threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(
        self,
        function: Callable[Arguments, Result],
        /,
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Future[Result]:
        """Call a function in a thread, after those that were submitted before."""
        future: Future[Result] = Future()

        def call() -> None:
            if self._is_closed:
                future.cancel()
            if not future.set_running_or_notify_cancel():
                return
            try:
                future.set_result(function(*args, **kwargs))
            except BaseException as error:
                future.set_exception(error)

        self._calls.put(call)
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:
        """End the threads after what was submitted, or without what has not begun."""
        self._is_closed = self._is_closed or cancel_futures
        for _ in self._threads:
            self._calls.put(None)
        for thread in self._threads if wait else ():
            thread.join()

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


@final
class WorkPool:
    """A pool of threads that refuses work if too much waits.

    Work of a request that was cancelled is dropped if it has not begun. Work that has begun keeps
    its place until it ends, because a thread cannot be stopped.

    Args:
        name: What the threads do, for messages.
        num_threads: Number of threads.
        waiting: Number of calls that may wait for a thread.
    """

    def __init__(self, name: str, num_threads: int, waiting: int) -> None:
        self._name = name
        self._most = num_threads + waiting
        self._admitted = 0
        self._lock = threading.Lock()
        self._threads = DaemonThreads(num_threads, name)

    async def run(
        self,
        function: Callable[Arguments, Result],
        *args: Arguments.args,
        **kwargs: Arguments.kwargs,
    ) -> Result:
        """Call a function in a thread.

        Raises:
            HttpError: 503 if too many calls wait.
        """
        with self._lock:
            if self._admitted >= self._most:
                raise overloaded(self._name)
            self._admitted += 1
        future = self._threads.submit(function, *args, **kwargs)
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def _leave(self, _: Future[Result]) -> None:
        with self._lock:
            self._admitted -= 1

    def close(self) -> None:
        """Drop what waits; what runs ends by itself."""
        self._threads.shutdown(cancel_futures=True)


@final
class Batcher(Generic[Item, Result]):
    """Calls a function for several items at a time, one call after the other.

    While a call runs, further items gather; they are the next batch. A single item never waits for
    others, and no time is lost to a timer.

    Args:
        name: What the function does, for messages.
        function: Returns one result per item; called in the thread.
        thread: Executor of one thread; batchers that share it never run at the same time.
        most_items: Largest number of items per call.
        waiting: Number of items that may wait.
    """

    def __init__(
        self,
        name: str,
        function: Callable[[Sequence[Item]], Sequence[Result]],
        thread: Executor,
        most_items: int,
        waiting: int,
    ) -> None:
        self._name = name
        self._function = function
        self._most_items = most_items
        self._most_waiting = waiting
        self._waiting: deque[tuple[Item, asyncio.Future[Result]]] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._thread = thread

    async def run(self, item: Item) -> Result:
        """Return the function's result for an item.

        Raises:
            HttpError: 503 if too many items wait.
        """
        if len(self._waiting) >= self._most_waiting:
            raise overloaded(self._name)
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, future))
        if self._runner is None:
            self._runner = asyncio.create_task(self._run())
        return await future

    async def _run(self) -> None:
        try:
            while self._waiting:
                await self._run_batch()
        finally:
            self._runner = None

    async def _run_batch(self) -> None:
        batch: list[tuple[Item, asyncio.Future[Result]]] = []
        while self._waiting and len(batch) < self._most_items:
            item, future = self._waiting.popleft()
            if not future.cancelled():  # its client has disconnected
                batch.append((item, future))
        try:
            results = await self._call([item for item, _ in batch])
        except Exception as error:
            await self._run_alone(batch, error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            _settle(future, result)

    async def _run_alone(
        self, batch: list[tuple[Item, asyncio.Future[Result]]], error: Exception
    ) -> None:
        """Repeat a failed call for each item, so that an item fails no other."""
        for item, future in batch:
            if len(batch) > 1:
                try:
                    _settle(future, (await self._call([item]))[0])
                    continue
                except Exception as own_error:
                    error = own_error
            if not future.done():
                future.set_exception(error)

    async def _call(self, items: list[Item]) -> Sequence[Result]:
        if not items:
            return []
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._function, items)


def overloaded(name: str) -> HttpError:
    """Return the error of a full queue."""
    return HttpError(503, f"overloaded: too many requests wait for {name}", _RETRY_SECONDS)


def _settle(future: asyncio.Future[Result], result: Result) -> None:
    if not future.done():
        future.set_result(result)
