"""Iterate in a thread, some items ahead."""

from __future__ import annotations

import atexit
import queue
import threading
import traceback
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Generic, TypeVar, final

_In = TypeVar("_In")
_Out = TypeVar("_Out")
_EXIT_SECONDS: Final = 10.0


@final
class Background(Generic[_Out]):
    """Iterator over what a thread makes of other items, a limited number of results ahead.

    Errors of the thread are raised by the iterator. The thread ends when the iterator is closed or
    deleted, before it takes the next item.

    Args:
        items: Items that only the thread reads from now on.
        make: Function from the items to the results, called in the thread; the items may end early.
        ahead: Number of results that may wait, including the one that is being made.

    Examples:
        >>> list(Background(iter([1, 2, 3]), lambda items: (2 * item for item in items), ahead=2))
        [2, 4, 6]
    """

    def __init__(
        self, items: Iterator[_In], make: Callable[[Iterator[_In]], Iterator[_Out]], ahead: int
    ) -> None:
        # The thread has no reference to this object, whose deletion ends it.
        self._exchange: _Exchange[_Out] = _Exchange(ahead)
        self._thread = _StoppableThread(self._exchange, partial(_work, items, make, self._exchange))
        weakref.finalize(self, self._exchange.stop)
        self._thread.start()

    def __iter__(self) -> Background[_Out]:
        """Return the iterator itself."""
        return self

    def __next__(self) -> _Out:
        """Return the next result.

        Raises:
            Exception: The error of the thread, after the results before it.
        """
        return self._exchange.take()

    def close(self, timeout: float) -> bool:
        """End the thread.

        Args:
            timeout: Seconds to wait for it, as long as it waits for an item.

        Returns:
            Whether it has ended, so that the items may be read by another.
        """
        self._exchange.stop()
        self._thread.join(timeout)
        return not self._thread.is_alive()


@final
class _StoppableThread(threading.Thread):
    """A thread that ends before the interpreter does.

    A thread that is still in torch's code when the interpreter ends would abort the process.
    """

    def __init__(self, exchange: _Exchange[Any], work: Callable[[], None]) -> None:
        super().__init__(target=work, name="clipkit-batches", daemon=True)
        self.exchange = exchange
        # As the last function, which is called first: others wait for the processes of the items.
        atexit.unregister(_end_threads)
        atexit.register(_end_threads)


def _end_threads() -> None:
    threads = [one for one in threading.enumerate() if isinstance(one, _StoppableThread)]
    for thread in threads:
        thread.exchange.stop()
    for thread in threads:
        thread.join(_EXIT_SECONDS)


@final
class _Exchange(Generic[_Out]):
    """Results on their way from a thread."""

    def __init__(self, ahead: int) -> None:
        self.is_stopped = False
        self._free = threading.Semaphore(ahead)
        self._ready: queue.SimpleQueue[_Out | _End] = queue.SimpleQueue()
        self._end: _End | None = None

    def stop(self) -> None:
        self.is_stopped = True
        self._free.release()

    def wait(self) -> bool:
        """Wait until another result may be made; return whether it should be."""
        self._free.acquire()
        return not self.is_stopped

    def put(self, result: _Out | _End) -> None:
        self._ready.put(result)

    def take(self) -> _Out:
        result = self._ready.get() if self._end is None else self._end
        if not isinstance(result, _End):
            self._free.release()
            return result
        self._end = result
        raise result.error


@final
class _End:
    """End of the results, or their error."""

    def __init__(self, error: BaseException) -> None:
        self.error = error


def _work(
    items: Iterator[_In], make: Callable[[Iterator[_In]], Iterator[_Out]], exchange: _Exchange[_Out]
) -> None:
    error = _make_all(make(_until_stopped(items, exchange)), exchange)
    # The error refers to all frames, and must not keep the items.
    traceback.clear_frames(error.__traceback__)
    del items, make
    exchange.put(_End(error))


def _make_all(results: Iterator[_Out], exchange: _Exchange[_Out]) -> BaseException:
    """Pass results on; return the error that ended them, which may be ``StopIteration``."""
    try:
        while exchange.wait():
            exchange.put(next(results))
    except BaseException as error:
        return error
    return StopIteration()


def _until_stopped(items: Iterator[_In], exchange: _Exchange[_Out]) -> Iterator[_In]:
    while not exchange.is_stopped:
        try:
            yield next(items)
        except StopIteration:
            return
