"""The best value of a monitored metric, and the step whose checkpoint has it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final


@final
class BestValue:
    """The best value of a metric whose checkpoint is complete or being written.

    A value whose checkpoint was lost is forgotten, so that the next one that is better than the
    checkpoint that is there gets one.

    Attributes:
        score: The value, negated if smaller ones are better; minus infinity for none.
        step: Optimizer step of its checkpoint; -1 if unknown.

    Examples:
        >>> best = BestValue()
        >>> best.begin(0.5, step=10)
        >>> best.begin(0.7, step=20)
        >>> best.lose()  # the disk was full
        >>> best.score, best.step
        (0.5, 10)
    """

    def __init__(self) -> None:
        self.score = -math.inf
        self.step = -1
        self._before = (self.score, self.step)

    def may_be_exceeded_by(self, score: float) -> bool:
        """Return whether a value is the best one if the checkpoint that is being written fails."""
        return score > self._before[0]

    def begin(self, score: float, step: int) -> None:
        """Begin to write the checkpoint of a better value."""
        self._before = (self.score, self.step)
        self.score, self.step = score, step

    def lose(self) -> None:
        """Return to the previous value, because the checkpoint was not written."""
        self.score, self.step = self._before

    def state_dict(self) -> dict[str, Any]:
        """Return plain numbers."""
        return {"best": self.score, "best_step": self.step}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``; files of version 0.1 have no step."""
        self.score, self.step = float(state["best"]), int(state.get("best_step", -1))
        self._before = (self.score, self.step)
