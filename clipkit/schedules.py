"""Numbers that change over a run: learning rates, weights of terms, temperatures.

A schedule is a pure function of the progress of the run, so that a resumed run continues exactly,
and a run that the clock ends completes its schedule.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal, final, get_args

from clipkit.errors import ConfigError, check_choice, check_range
from clipkit.renamed_arguments import renamed_arguments
from clipkit.when import Moment, Progress, When, as_when, ascending

CooldownShape = Literal["linear", "one_minus_sqrt", "cosine"]
_WARMUP = {
    f"{name}_{unit}": name for name in ("warmup", "cooldown") for unit in ("steps", "fraction")
}


class Schedule(ABC):
    """A number for every step of a run."""

    @abstractmethod
    def at(self, progress: Progress) -> float:
        """Return the number of the next step.

        Args:
            progress: Progress of the run before that step.
        """

    def check(self, run: Progress) -> None:  # noqa: B027 (optional)
        """Refuse a run that is too short for this schedule; the default accepts all.

        Args:
            run: Progress with the length of the run.

        Raises:
            ConfigError: If the run is too short.
        """


@final
class ConstantSchedule(Schedule):
    """The same number at every step.

    Args:
        value: The number.
    """

    def __init__(self, value: float) -> None:
        self.value = value

    def at(self, progress: Progress) -> float:  # noqa: ARG002 (constant)
        """Return the number."""
        return self.value


class _Curve(Schedule, ABC):
    """A curve from ``start`` to ``end`` over a part of the run."""

    @renamed_arguments({"num_steps": "length", "first_step": "begin"})
    def __init__(self, start: float, end: float, length: Moment, begin: Moment = 0) -> None:
        self.start, self.end = start, end
        self.begin, self.length = as_when("begin", begin), as_when("length", length)
        if not (self.length.step or self.length.samples or self.length.fraction):
            raise ConfigError(f"length: expected more than 0, got {length}")

    def share(self, progress: Progress) -> float:
        """Return the completed fraction of the curve, 0 to 1."""
        first, steps = self.begin.steps(progress), self.length.steps(progress)
        if first is not None and steps is not None:
            share = (progress.step - first) / steps
        else:
            share = progress.fraction - self.begin.share(progress)
            share /= self.length.share(progress)
        return min(max(share, 0.0), 1.0)


@final
class LinearSchedule(_Curve):
    """A straight line from ``start`` to ``end``, then ``end``.

    Args:
        start: Number up to ``begin``.
        end: Number after the line.
        length: Length of the line: steps, a fraction of the run, or a ``When``.
        begin: Begin of the line: steps, a fraction of the run, or a ``When``.

    Raises:
        ConfigError: If ``length`` is 0 or an option is out of range.

    Examples:
        >>> [LinearSchedule(0.0, 1.0, length=4).at(Progress(step)) for step in (0, 1, 4, 9)]
        [0.0, 0.25, 1.0, 1.0]
    """

    def at(self, progress: Progress) -> float:
        """Return the height of the line."""
        return self.start + (self.end - self.start) * self.share(progress)


@final
class CosineSchedule(_Curve):
    """Half a cosine from ``start`` to ``end``, then ``end``.

    Args:
        start: Number up to ``begin``.
        end: Number after the curve.
        length: Length of the curve: steps, a fraction of the run, or a ``When``.
        begin: Begin of the curve: steps, a fraction of the run, or a ``When``.

    Raises:
        ConfigError: If ``length`` is 0 or an option is out of range.

    Examples:
        >>> schedule = CosineSchedule(1.0, 0.0, length=4)
        >>> [round(schedule.at(Progress(step)), 3) for step in (0, 1, 2, 4)]
        [1.0, 0.854, 0.5, 0.0]
    """

    def at(self, progress: Progress) -> float:
        """Return the height of the curve."""
        wave = (1 + math.cos(math.pi * self.share(progress))) / 2
        return self.end + (self.start - self.end) * wave


@final
class StepSchedule(Schedule):
    """A constant number between two boundaries.

    Args:
        values: The numbers in order.
        boundaries: Where the second, third, ... number begins, ascending: steps, fractions of the
            run, or ``When``, all in the same unit.

    Raises:
        ConfigError: If there is not one boundary fewer than values, or they do not ascend.

    Examples:
        >>> [StepSchedule([0.0, 1.0], boundaries=[10]).at(Progress(step)) for step in (9, 10)]
        [0.0, 1.0]
    """

    def __init__(self, values: Sequence[float], boundaries: Sequence[Moment]) -> None:
        self.values = tuple(values)
        self.boundaries = ascending("StepSchedule.boundaries", boundaries)
        if len(values) != len(boundaries) + 1:
            raise ConfigError(
                f"StepSchedule: expected one boundary fewer than values, "
                f"got values {list(values)} and boundaries {list(boundaries)}"
            )

    def at(self, progress: Progress) -> float:
        """Return the number between the boundaries around ``progress``."""
        return self.values[sum(boundary.is_reached(progress) for boundary in self.boundaries)]


@final
class WarmupCosine(Schedule):
    """A linear warm-up to 1, then half a cosine down.

    Args:
        warmup: Length of the warm-up: steps, a fraction of the run, or a ``When``.
        final_factor: Factor at the end, 0 to 1.

    Raises:
        ConfigError: If an option is out of range; ``check`` if the warm-up is longer than the run.

    Examples:
        >>> schedule = WarmupCosine(warmup=2)
        >>> [round(schedule.at(Progress(step, num_steps=6)), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """

    @renamed_arguments(_WARMUP)
    def __init__(self, warmup: Moment = 0.05, final_factor: float = 0.0) -> None:
        self.warmup = as_when("warmup", warmup)
        self.final_factor = check_range("final_factor", final_factor, 0, 1)

    def at(self, progress: Progress) -> float:
        """Return the factor of the learning rate."""
        if not self.warmup.is_reached(progress):
            return ramp(progress, self.warmup)
        end = self.warmup.share(progress)
        # the clock may end a run together with its warm-up
        part = (progress.fraction - end) / (1 - end) if end < 1 else 1.0
        return cosine(part, self.final_factor)

    def check(self, run: Progress) -> None:
        """Refuse a run that is not longer than the warm-up."""
        _check_lengths(run, warmup=self.warmup)


@final
class WarmupStableDecay(Schedule):
    """A linear warm-up to 1, a constant part, and a cooldown at the end (WSD, Hu et al. 2024).

    The constant part does not depend on the end of the run: a run can be extended from a checkpoint
    of it. Without a cooldown the factor stays at 1 after the warm-up.

    Args:
        warmup: Length of the warm-up: steps, a fraction of the run, or a ``When``.
        cooldown: Length of the cooldown: steps, a fraction of the run, or a ``When``; 0 for none.
        shape: Shape of the cooldown: "linear", "one_minus_sqrt" (Hägele et al. 2024, section 3.2)
            or "cosine".
        final_factor: Factor at the end, 0 to 1.

    Raises:
        ConfigError: If an option is out of range; ``check`` if both do not fit into the run.

    Examples:
        >>> schedule = WarmupStableDecay(warmup=2, cooldown=2, shape="linear")
        >>> [round(schedule.at(Progress(step, num_steps=6)), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]
    """

    @renamed_arguments(_WARMUP)
    def __init__(
        self,
        warmup: Moment = 0.05,
        cooldown: Moment = 0.2,
        shape: CooldownShape = "one_minus_sqrt",
        final_factor: float = 0.0,
    ) -> None:
        check_choice("shape", shape, get_args(CooldownShape))
        self.warmup, self.cooldown = as_when("warmup", warmup), as_when("cooldown", cooldown)
        self.shape, self.final_factor = shape, check_range("final_factor", final_factor, 0, 1)

    def at(self, progress: Progress) -> float:
        """Return the factor of the learning rate."""
        length = self.cooldown.share(progress)
        start = 1 - length
        if length > 0 and progress.fraction > start:
            part = min(1.0, (progress.fraction - start) / length)
            if self.shape == "cosine":
                return cosine(part, self.final_factor)
            completed = part if self.shape == "linear" else math.sqrt(part)
            return 1 - (1 - self.final_factor) * completed
        return ramp(progress, self.warmup)

    def check(self, run: Progress) -> None:
        """Refuse a run that is not longer than warm-up and cooldown."""
        _check_lengths(run, warmup=self.warmup, cooldown=self.cooldown)


def as_schedule(value: float | Schedule) -> Schedule:
    """Return a schedule as it is, and a number as a constant schedule."""
    return value if isinstance(value, Schedule) else ConstantSchedule(value)


def ramp(progress: Progress, length: When) -> float:
    """Return the factor of a linear warm-up: 1 / length in its first step, 1 in its last.

    Examples:
        >>> [ramp(Progress(step), When(step=4)) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    steps = length.steps(progress)
    if steps is not None:
        return 1.0 if steps <= 0 else min(1.0, (progress.step + 1) / steps)
    share = length.share(progress)
    return 1.0 if share == 0 else min(1.0, (progress.fraction + progress.step_fraction) / share)


def cosine(part: float, final_factor: float = 0.0) -> float:
    """Return half a cosine from 1 to ``final_factor`` (Loshchilov and Hutter 2017, equation 5)."""
    return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * part))


def _check_lengths(run: Progress, **lengths: When) -> None:
    steps = {name: when.steps(run) for name, when in lengths.items()}
    if math.isinf(run.num_steps):
        return
    for name, when in lengths.items():
        if when.fraction is not None:
            steps[name] = when.fraction * run.num_steps
    if sum(number or 0 for number in steps.values()) < run.num_steps:
        return
    parts = " + ".join(f"{name} of {number:g} steps" for name, number in steps.items())
    raise ConfigError(
        f"schedule: {parts} must be shorter than the run of {run.num_steps:g} steps; "
        f"shorten it (or set it as a fraction), or train for more steps"
    )
