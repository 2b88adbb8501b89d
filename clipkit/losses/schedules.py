"""Numbers that change with the step: weights of terms, and the memory of the global loss."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

from clipkit.errors import ConfigError


class Schedule(ABC):
    """A pure function of the step."""

    @abstractmethod
    def __call__(self, step: int) -> float:
        """The number at ``step``, the count of training steps that are done."""


@final
class ConstantSchedule(Schedule):
    """The same number for ever.

    Args:
        value: That number.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def __call__(self, step: int) -> float:  # noqa: ARG002 (a schedule is asked with the step)
        """``value``."""
        return self.value


@final
class LinearSchedule(Schedule):
    """A straight line from ``start`` to ``end``, then ``end``.

    Args:
        start: Number up to ``first_step``.
        end: Number from ``first_step + num_steps`` on.
        num_steps: Length of the line.
        first_step: Where it begins.

    Raises:
        ConfigError: If ``num_steps`` is not positive.

    Examples:
        >>> [LinearSchedule(0.0, 1.0, num_steps=4)(step) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """

    def __init__(self, start: float, end: float, num_steps: int, first_step: int = 0) -> None:
        self.start, self.end = start, end
        self.num_steps, self.first_step = _checked_length(num_steps), first_step

    def __call__(self, step: int) -> float:
        """The line's height at ``step``."""
        share = _share(step, self.first_step, self.num_steps)
        return self.start + (self.end - self.start) * share


@final
class CosineSchedule(Schedule):
    """Half a cosine from ``start`` to ``end``, then ``end``.

    Args:
        start: Number up to ``first_step``.
        end: Number from ``first_step + num_steps`` on.
        num_steps: Length of the curve.
        first_step: Where it begins.

    Raises:
        ConfigError: If ``num_steps`` is not positive.

    Examples:
        >>> [round(CosineSchedule(1.0, 0.0, num_steps=4)(step), 3) for step in (0, 1, 2, 4)]
        [1.0, 0.854, 0.5, 0.0]
    """

    def __init__(self, start: float, end: float, num_steps: int, first_step: int = 0) -> None:
        self.start, self.end = start, end
        self.num_steps, self.first_step = _checked_length(num_steps), first_step

    def __call__(self, step: int) -> float:
        """The curve's height at ``step``."""
        share = _share(step, self.first_step, self.num_steps)
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * share)) / 2


@final
class StepSchedule(Schedule):
    """One number after another.

    Args:
        values: The numbers.
        boundaries: The steps at which the second, third, ... number begins, ascending.

    Raises:
        ConfigError: If there is not one boundary less than values, or they do not ascend.

    Examples:
        >>> [StepSchedule([0.0, 1.0], boundaries=[10])(step) for step in (9, 10)]
        [0.0, 1.0]
    """

    def __init__(self, values: Sequence[float], boundaries: Sequence[int]) -> None:
        if len(values) != len(boundaries) + 1 or list(boundaries) != sorted(set(boundaries)):
            raise ConfigError(
                f"StepSchedule: expected one ascending boundary less than values, "
                f"got values {list(values)} and boundaries {list(boundaries)}"
            )
        self.values, self.boundaries = tuple(values), tuple(boundaries)

    def __call__(self, step: int) -> float:
        """The number whose turn it is at ``step``."""
        return self.values[sum(step >= boundary for boundary in self.boundaries)]


def as_schedule(value: float | Schedule) -> Schedule:
    """A schedule as it is, a number as a constant one."""
    return value if isinstance(value, Schedule) else ConstantSchedule(value)


def _share(step: int, first_step: int, num_steps: int) -> float:
    return min(max((step - first_step) / num_steps, 0.0), 1.0)


def _checked_length(num_steps: int) -> int:
    if num_steps < 1:
        raise ConfigError(f"num_steps: expected a positive number, got {num_steps}")
    return num_steps
