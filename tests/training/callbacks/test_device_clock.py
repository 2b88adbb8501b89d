"""The clock of a GPU, over events that are recorded in a queue."""

from __future__ import annotations

import pytest
import torch

from clipkit.training.callbacks.performance.throughput import _DeviceClock
from clipkit.training.callbacks.progress_bar import figures


def test_waits_and_steps_are_those_of_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the queue before the values are logged."""
    times, waited_for = iter([0.0, 2.0, 5.0, 6.0, 10.0, 20.0, 21.0, 23.0]), []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            self.time = next(times)

        def synchronize(self) -> None:
            waited_for.append(self.time)

        def elapsed_time(self, end: Event) -> float:
            return 1000 * (end.time - self.time)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = _DeviceClock()
    clock.begin_wait()  # at 0
    for _ in range(2):
        clock.begin_step()  # at 2 and 6
        clock.end_step()  # at 5 and 10
    assert not waited_for
    assert clock.take_seconds() == (2 + 1, 3 + 4)
    clock.begin_wait()  # at 20, after a validation
    clock.begin_step()
    clock.end_step()
    assert clock.take_seconds() == (1, 2)


def test_the_bar_shows_operations_and_utilisation() -> None:
    values = {"throughput/mfu": 0.412, "throughput/tflops_per_second": 407.4}
    assert figures(values) == "407 TFLOP/s · MFU 41%"
