"""Checkpoints whose writing takes long, and their contents."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from clipkit.training.checkpoints import places


@contextmanager
def held_writes(seconds: float = 30.0) -> Iterator[threading.Event]:
    """Writes that run in a thread do not begin before the event is set, or the time is over.

    Those of the main thread, which trains, begin at once.
    """
    event = threading.Event()

    def held(write: Any) -> Any:
        def wait_and_write(*args: Any, **options: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                event.wait(seconds)
            return write(*args, **options)

        return wait_and_write

    with (
        patch.object(places, "write_file", held(places.write_file)),
        patch.object(places, "write_parts", held(places.write_parts)),
    ):
        yield event


def differences(first: Any, second: Any, place: str = "") -> list[str]:
    """The places where two checkpoints are not the same bit for bit."""
    if isinstance(first, torch.Tensor):
        same = isinstance(second, torch.Tensor) and first.dtype == second.dtype
        return [] if same and torch.equal(first, second) else [place]
    if isinstance(first, dict) and isinstance(second, dict):
        if first.keys() != second.keys():
            return [f"{place}: {sorted(map(str, first.keys() ^ second.keys()))}"]
        pairs = [(key, first[key], second[key]) for key in first]
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple):
        if len(first) != len(second):
            return [place]
        pairs = [(number, *pair) for number, pair in enumerate(zip(first, second, strict=True))]
    else:
        return [] if first == second else [f"{place}: {first} {second}"]
    return [found for key, a, b in pairs for found in differences(a, b, f"{place}/{key}")]
