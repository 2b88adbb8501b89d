"""Items that a thread makes in advance."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from collections.abc import Callable, Iterator

import pytest

from clipkit.data.stream.background import Background
from tests.helpers.leftovers import Leftovers


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_results_come_in_order_and_end() -> None:
    results = Background(iter(range(5)), lambda items: (item * item for item in items), ahead=2)
    assert list(results) == [0, 1, 4, 9, 16]
    assert list(results) == []


def test_only_some_results_wait() -> None:
    made: list[int] = []

    def make(items: Iterator[int]) -> Iterator[int]:
        for item in items:
            made.append(item)
            yield item

    results = Background(iter(range(99)), make, ahead=3)
    wait_until(lambda: len(made) == 3)
    time.sleep(0.05)
    assert made == [0, 1, 2]
    assert next(results) == 0
    wait_until(lambda: len(made) == 4)
    assert results.close(30)
    assert len(made) == 4


@pytest.mark.parametrize("fails_in_items", [True, False])
def test_an_error_comes_after_the_results_before_it(fails_in_items: bool) -> None:
    class Held:
        pass

    left, held = Leftovers(), Held()
    reference = weakref.ref(held)

    def items(held: object) -> Iterator[int]:
        yield 1
        if fails_in_items:
            raise OSError("no space", held.__class__.__name__)
        yield 0

    results = Background(items(held), lambda items: (1 // item for item in items), ahead=2)
    del held
    assert next(results) == 1
    with pytest.raises((OSError, ZeroDivisionError)) as caught:
        next(results)
    # The error, which a caller may keep, keeps neither items nor processes.
    left.wait()
    gc.collect()
    assert reference() is None
    with pytest.raises(type(caught.value)):
        next(results)


def test_a_deleted_iterator_ends_its_thread() -> None:
    left = Leftovers()
    results = Background(iter(range(99)), iter, ahead=1)
    assert next(results) == 0
    assert len(left.now()) == 1
    del results
    left.wait()


def test_closing_ends_between_items_of_one_result() -> None:
    release = threading.Semaphore(0)

    def items() -> Iterator[int]:
        while True:
            release.acquire()
            yield 1

    results = Background(items(), lambda items: (sum(x) for x in [items]), ahead=1)
    assert not results.close(timeout=0.01)  # an item that has not come yet
    release.release()
    assert results.close(timeout=30)
