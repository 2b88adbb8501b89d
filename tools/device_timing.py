"""Times and memory of work on a GPU; on a CPU, where the tools are tried out, times alone."""

from __future__ import annotations

import time

import torch


class Mark:
    """A moment in the queue of a device."""

    def __init__(self, device: torch.device) -> None:
        self._event = torch.cuda.Event(enable_timing=True) if device.type == "cuda" else None
        if self._event is not None:
            self._event.record()
        self._seconds = time.perf_counter()

    def milliseconds_until(self, later: Mark) -> float:
        """Milliseconds to a later mark; synchronise before."""
        if self._event is not None and later._event is not None:
            return self._event.elapsed_time(later._event)
        return 1000 * (later._seconds - self._seconds)


def synchronize(device: torch.device) -> None:
    """Wait until a device has done everything."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def forget_peak(device: torch.device) -> int:
    """Start a new measurement of memory; return the bytes that are in use."""
    if device.type != "cuda":
        return 0
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


def peak_bytes(device: torch.device) -> int:
    """Largest number of bytes in use since the measurement began."""
    return torch.cuda.max_memory_allocated() if device.type == "cuda" else 0


def card_name(device: torch.device) -> str:
    """Name of the GPU, or "cpu"."""
    return torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
