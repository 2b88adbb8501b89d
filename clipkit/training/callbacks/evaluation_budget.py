"""Which evaluators run within a budget of seconds, agreed on by all ranks."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Final, final

import torch

from clipkit.distributed.collectives import max_over_ranks, rank

_LOG: Final = logging.getLogger(__name__)


@final
class EvaluationBudget:
    """Leaves out evaluators for which the rest of a budget is too short, and logs which.

    An evaluator is left out if the time since the start of the evaluation and the seconds that the
    evaluator took last exceed the budget. Those that have waited longest come first, so that each
    has its turn. All ranks decide by the slowest one.

    Args:
        seconds: Seconds of an evaluation; None for no limit.
        clock: Function that returns seconds.
    """

    def __init__(self, seconds: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._took: dict[str, float] = {}
        self._last_run: dict[str, int] = {}
        self._num_runs = 0

    def turns(
        self, names: Sequence[str], always: Collection[str], step: int, device: torch.device
    ) -> Iterator[str]:
        """Yield the evaluators that run now; the caller runs each before it asks for the next.

        Every rank calls this.

        Args:
            names: Names of all evaluators.
            always: Names of evaluators that are not left out. They come first.
            step: Number of optimizer steps completed.
            device: Device for the exchange between ranks.
        """
        start = self._clock()
        left_out: dict[str, float] = {}
        waiting = sorted(names, key=lambda name: (name not in always, self._last_run.get(name, -1)))
        for name in waiting if self._seconds is not None else names:
            spent = self._agreed(self._clock() - start, device)
            is_short = self._seconds is not None and spent + self._took.get(name, 0) > self._seconds
            if is_short and name not in always:
                left_out[name] = spent
                continue
            began = self._clock()
            yield name
            self._took[name] = self._agreed(self._clock() - began, device)
            self._num_runs += 1
            self._last_run[name] = self._num_runs
        if rank() == 0:
            self._log(step, left_out)

    def _agreed(self, seconds: float, device: torch.device) -> float:
        """Return the most seconds of any rank."""
        if self._seconds is None:
            return seconds
        return float(max_over_ranks(torch.tensor(seconds, device=device)))

    def _log(self, step: int, left_out: dict[str, float]) -> None:
        assert self._seconds is not None or not left_out
        for name, spent in left_out.items():
            took = self._took.get(name)
            needs = "its time is unknown" if took is None else f"it took {took:.3g} s"
            fate = "it comes first next time"
            if took is not None and self._seconds is not None and took > self._seconds:
                fate = "it never fits, and runs at the end of the fit only"
            _LOG.warning(
                "evaluation after step %d: left out %s: %s, and %.3g s of budget_seconds=%g had "
                "passed; %s", step, name, needs, spent, self._seconds, fate,
            )  # fmt: skip
