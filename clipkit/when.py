"""Moments of a run, and the progress of a run towards them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from clipkit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Progress:
    """Progress of a run.

    Args:
        step: Number of optimizer steps completed; not an integer if the step size has changed.
        num_steps: Number of optimizer steps of the run; infinite if only the clock ends it, or if
            it is unknown.
        elapsed: Fraction of the time limit that has passed, 0 to 1; None without a time limit.
        step_samples: Number of samples of an optimizer step, over all ranks; None if unknown.

    Examples:
        >>> Progress(step=30, num_steps=100, elapsed=0.4).fraction
        0.4
    """

    step: float
    num_steps: float = math.inf
    elapsed: float | None = None
    step_samples: int | None = None

    @property
    def fraction(self) -> float:
        """Fraction of the run that is completed, 0 to 1, by the limit that ends it first."""
        return min(1.0, max(self.step / self.num_steps, self.elapsed or 0.0))

    @property
    def step_fraction(self) -> float:
        """Fraction of the run per step; with a time limit, as measured so far."""
        return self.fraction / self.step if self.step else 1 / self.num_steps


START: Final = Progress(step=0, elapsed=0.0, step_samples=1)
"""The start of a run of unknown length."""


@dataclass(frozen=True, slots=True)
class When:
    """A moment of a run, or the length of a part of it, by exactly one argument.

    Options of type ``When`` also accept a number: an integer is a number of optimizer steps, any
    other number is a fraction of the run.

    Args:
        step: Number of optimizer steps, in the size of the first launch.
        samples: Number of samples, over all ranks and epochs.
        fraction: Fraction of the run, 0 to 1, by steps or by ``trainer.max_time``.

    Raises:
        ConfigError: Unless exactly one argument is given, and in range.

    Examples:
        >>> When(samples=1000).is_reached(Progress(step=10, step_samples=64))
        False
    """

    step: int | None = None
    samples: int | None = None
    fraction: float | None = None

    def __post_init__(self) -> None:
        values = [v for v in (self.step, self.samples, self.fraction) if v is not None]
        if len(values) != 1 or values[0] < 0 or (self.fraction or 0) > 1:
            raise ConfigError(
                f"expected one of step, samples (0 or more) and fraction (0 to 1), got {self}"
                + (" (a plain number replaces the unit of a file)" if len(values) > 1 else "")
            )

    def __str__(self) -> str:
        names = ("step", "samples", "fraction")
        return ", ".join(f"{n}: {v}" for n in names if (v := getattr(self, n)) is not None)

    @property
    def unit(self) -> str:
        """Name of the argument that is given."""
        return str(self).partition(":")[0]

    def steps(self, progress: Progress) -> float | None:
        """Convert to optimizer steps; None for a fraction.

        Raises:
            ConfigError: If the number of samples of a step is unknown.
        """
        if self.samples is None:
            return self.step
        if progress.step_samples is None:
            raise ConfigError(f"{self}: the number of samples of a step is unknown here; use step")
        return self.samples / progress.step_samples

    def share(self, progress: Progress) -> float:
        """Convert to a fraction of the run, at the speed of the run so far.

        Raises:
            ConfigError: If the length of the run is unknown.
        """
        steps = self.steps(progress)
        if steps is not None:
            return steps * progress.step_fraction
        if math.isinf(progress.num_steps) and progress.elapsed is None:
            raise ConfigError(f"{self}: the length of the run is unknown here; use step")
        assert self.fraction is not None
        return self.fraction

    def is_reached(self, progress: Progress) -> bool:
        """Return whether the run has come to this moment."""
        steps = self.steps(progress)
        if steps is None:
            return progress.fraction >= self.share(progress)
        return progress.step >= steps


Moment = When | int | float
"""A ``When``, or a number: an integer counts optimizer steps, any other is a fraction."""


def as_when(option: str, value: Moment) -> When:
    """Return a ``When`` as it is, and a number as steps or fraction.

    Raises:
        ConfigError: If a number is negative, or not an integer and above 1.

    Examples:
        >>> as_when("begin", 0.5)
        When(step=None, samples=None, fraction=0.5)
    """
    if isinstance(value, When):
        return value
    try:
        return When(step=value) if isinstance(value, int) else When(fraction=value)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from error


def ascending(option: str, moments: Sequence[Moment]) -> tuple[When, ...]:
    """Convert moments that must ascend and be in the same unit.

    Args:
        option: Name of the option, for the error.
        moments: Steps, fractions of the run, or ``When``.

    Raises:
        ConfigError: If they do not ascend, or their units differ.

    Examples:
        >>> ascending("ends", [0.25, 0.5])[1].fraction
        0.5
    """
    whens = tuple(as_when(option, moment) for moment in moments)
    values = [0, *(when.step or when.samples or when.fraction or 0 for when in whens)]
    if len({when.unit for when in whens}) > 1 or any(a >= b for a, b in pairwise(values)):
        raise ConfigError(
            f"{option}: expected ascending values above 0 in the same unit, "
            f"got {', '.join(map(str, whens))}"
        )
    return whens
