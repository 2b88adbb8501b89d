"""The part of a time limit that is over, the same on every rank, without waiting for others."""

from __future__ import annotations

from typing import Final, final

from clipkit.distributed.delayed_max import DelayedMax

_PARTS: Final = 10**9


@final
class SharedClock:
    """The latest clock of all ranks, known one step late.

    Clocks of machines differ, and learning rates must not. Sending one clock to all ranks in every
    step would wait for the GPU.

    Args:
        step: The step at which the fraction was the same on every rank.
        fraction: That fraction of the time limit.
    """

    def __init__(self, step: int, fraction: float) -> None:
        self._latest = DelayedMax()
        self._step = step
        self._fraction = fraction

    def at(self, step: int, own: float) -> float:
        """Return the fraction at a step; every rank asks at the same steps.

        Args:
            step: Number of completed steps.
            own: Fraction by the clock of this rank.
        """
        if step != self._step:
            self._step = step
            latest = self._latest.all_reduce(round(own * _PARTS)) / _PARTS
            self._fraction = max(self._fraction, latest)
        return self._fraction
