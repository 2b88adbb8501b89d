"""Threads of a scan share its work, use one thread of torch each, and change nothing elsewhere."""

import os
import threading

import pytest
import torch

from clipkit.search.scan_threads import run_on_threads


@pytest.fixture(autouse=True)
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def who(together: threading.Barrier) -> tuple[str, int]:
    together.wait(timeout=30)
    return threading.current_thread().name, torch.get_num_threads()


def test_each_thread_uses_one_of_torch():
    together = threading.Barrier(3)
    found = run_on_threads(lambda: who(together), most=10)
    assert len({name for name, _ in found}) == 3
    assert [number for _, number in found] == [1, 1, 1]


def test_the_number_of_threads_stays_elsewhere():
    run_on_threads(lambda: None, most=3)
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert [torch.get_num_threads(), *seen] == [3, 3]


@pytest.mark.parametrize("most", [0, 1])
def test_little_work_is_done_at_once(most):
    assert run_on_threads(threading.current_thread, most) == [threading.current_thread()]


def test_an_error_ends_the_call_after_all_threads():
    numbers, ended = iter(range(3)), []

    def work() -> None:
        if next(numbers) == 1:
            raise ValueError("the second one")
        ended.append(True)

    with pytest.raises(ValueError, match="the second one"):
        run_on_threads(work, most=3)
    assert len(ended) == 2


def test_a_forked_process_starts_threads_of_its_own():
    run_on_threads(lambda: None, most=3)
    child = os.fork()
    if child == 0:
        together = threading.Barrier(3)
        found = run_on_threads(lambda: who(together), most=3)
        os._exit(0 if len(found) == 3 else 1)
    assert os.waitpid(child, 0)[1] == 0
