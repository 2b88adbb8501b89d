"""The learning rate over a run: a factor between 0 and 1 of each group's own rate.

A schedule looks at the part of the run that is behind, so that it ends with the run whether steps
or the clock end it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Literal, Protocol, final

from clipkit.errors import ConfigError

CooldownShape = Literal["linear", "one_minus_sqrt", "cosine"]
_SHAPES = ("linear", "one_minus_sqrt", "cosine")


class Progress(Protocol):
    """Where a run stands.

    Attributes:
        step: Optimizer steps that are behind; not whole where the batch has changed.
        num_steps: Optimizer steps of the whole run; infinite where only the clock ends it.
        fraction: Part of the run that is behind, 0 to 1; step / num_steps where steps end it.
    """

    @property
    def step(self) -> float: ...  # noqa: D102
    @property
    def num_steps(self) -> float: ...  # noqa: D102
    @property
    def fraction(self) -> float: ...  # noqa: D102


@dataclass(frozen=True, slots=True)
class StepProgress:
    """The progress of a run that steps end."""

    step: int
    num_steps: float

    @property
    def fraction(self) -> float:
        """Part of the run that is behind, 0 to 1."""
        return min(1.0, self.step / self.num_steps)


def ramp(step: float, length: float) -> float:
    """The factor of a linear warm-up: 1 / length at step 0, 1 from step length - 1 on.

    Examples:
        >>> [ramp(step, 4) for step in range(5)]
        [0.25, 0.5, 0.75, 1.0, 1.0]
    """
    return 1.0 if length <= 0 else min(1.0, (step + 1) / length)


def cosine(part: float, final_factor: float = 0.0) -> float:
    """Half a cosine from 1 to ``final_factor`` (Loshchilov and Hutter 2017, equation 5).

    Args:
        part: How much of the decay is behind, 0 to 1.
        final_factor: Where it ends.
    """
    return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * part))


def cooldown(part: float, shape: CooldownShape, final_factor: float = 0.0) -> float:
    """The factor during a cooldown, from 1 to ``final_factor``.

    Args:
        part: How much of the cooldown is behind, 0 to 1.
        shape: "linear", "one_minus_sqrt" (Hägele et al. 2024, section 3.2) or "cosine".
        final_factor: Where it ends.
    """
    if shape == "cosine":
        return cosine(part, final_factor)
    gone = part if shape == "linear" else math.sqrt(part)
    return 1 - (1 - final_factor) * gone


class Schedule(ABC):
    """A factor of the learning rate for every step of a run."""

    @abstractmethod
    def factor(self, progress: Progress) -> float:
        """The factor of the step that comes next.

        Args:
            progress: What is behind.

        Returns:
            0 to 1.
        """

    @abstractmethod
    def check(self, num_steps: float) -> None:
        """Refuse a run that is too short for this schedule.

        Args:
            num_steps: Optimizer steps of the run; infinite where only the clock ends it.

        Raises:
            ConfigError: If it is too short.
        """

    @final
    def at(self, step: int, num_steps: int) -> float:
        """The factor of step ``step`` (from 0) of a run of ``num_steps`` steps."""
        return self.factor(StepProgress(step, num_steps))


@final
class WarmupCosine(Schedule):
    """A linear warm-up, then half a cosine down.

    Args:
        warmup_steps: Length of the warm-up in optimizer steps; None to take ``warmup_fraction``.
        warmup_fraction: Length of the warm-up as a part of the run.
        final_factor: Factor at the end.

    Raises:
        ConfigError: If an option is out of range; ``check`` if the warm-up is longer than the run.

    Examples:
        >>> [round(WarmupCosine(warmup_steps=2).at(step, 6), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15]
    """

    def __init__(
        self,
        warmup_steps: int | None = None,
        warmup_fraction: float = 0.05,
        final_factor: float = 0.0,
    ) -> None:
        self._warmup = _Phase("warmup", warmup_steps, warmup_fraction)
        self._final_factor = _checked_factor(final_factor)

    def factor(self, progress: Progress) -> float:
        """See ``Schedule.factor``."""
        if self._warmup.lasts(progress):
            return self._warmup.ramp(progress)
        end = self._warmup.share(progress)
        # the clock may end a run together with its warm-up
        part = (progress.fraction - end) / (1 - end) if end < 1 else 1.0
        return cosine(part, self._final_factor)

    def check(self, num_steps: float) -> None:
        """See ``Schedule.check``."""
        _check_phases(num_steps, self._warmup)


@final
class WarmupStableDecay(Schedule):
    """A linear warm-up, a constant rate, and a cooldown at the end (WSD, Hu et al. 2024).

    The constant part depends on no end: a run can be prolonged from a checkpoint of it. Without a
    cooldown it is a constant rate after a warm-up.

    Args:
        warmup_steps: Length of the warm-up in optimizer steps; None to take ``warmup_fraction``.
        warmup_fraction: Length of the warm-up as a part of the run.
        cooldown_steps: Length of the cooldown in steps; None to take ``cooldown_fraction``.
        cooldown_fraction: Length of the cooldown as a part of the run.
        shape: "linear", "one_minus_sqrt" or "cosine".
        final_factor: Factor at the end.

    Raises:
        ConfigError: If an option is out of range; ``check`` if both do not fit into the run.

    Examples:
        >>> schedule = WarmupStableDecay(warmup_steps=2, cooldown_steps=2, shape="linear")
        >>> [round(schedule.at(step, 6), 2) for step in range(6)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]
    """

    def __init__(
        self,
        warmup_steps: int | None = None,
        warmup_fraction: float = 0.05,
        cooldown_steps: int | None = None,
        cooldown_fraction: float = 0.2,
        shape: CooldownShape = "one_minus_sqrt",
        final_factor: float = 0.0,
    ) -> None:
        if shape not in _SHAPES:
            raise ConfigError(f"shape: expected one of {', '.join(_SHAPES)}, got {shape!r}")
        self._warmup = _Phase("warmup", warmup_steps, warmup_fraction)
        self._cooldown = _Phase("cooldown", cooldown_steps, cooldown_fraction)
        self._shape: CooldownShape = shape
        self._final_factor = _checked_factor(final_factor)

    def factor(self, progress: Progress) -> float:
        """See ``Schedule.factor``."""
        length = self._cooldown.share(progress)
        start = 1 - length
        if length > 0 and progress.fraction > start:
            part = min(1.0, (progress.fraction - start) / length)
            return cooldown(part, self._shape, self._final_factor)
        return self._warmup.ramp(progress)

    def check(self, num_steps: float) -> None:
        """See ``Schedule.check``."""
        _check_phases(num_steps, self._warmup, self._cooldown)


@dataclass(frozen=True, slots=True)
class _Phase:
    """A part of a run whose length is given in steps or, where that is None, as a fraction."""

    name: str
    steps: int | None
    fraction: float

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 0:
            raise ConfigError(f"{self.name}_steps: expected at least 0, got {self.steps}")
        if not 0 <= self.fraction < 1:
            raise ConfigError(
                f"{self.name}_fraction: expected 0 up to but not 1, got {self.fraction}"
            )

    def share(self, progress: Progress) -> float:
        """Its length as a part of the run, at the speed of the run so far."""
        return self.fraction if self.steps is None else self.steps * _one_step(progress)

    def lasts(self, progress: Progress) -> bool:
        """Whether a phase of this length at the start of the run is not over."""
        if self.steps is None:
            return progress.fraction < self.fraction
        return progress.step < self.steps

    def ramp(self, progress: Progress) -> float:
        """The factor of a warm-up of this length."""
        if self.steps is not None:
            return ramp(progress.step, self.steps)
        if self.fraction == 0:
            return 1.0
        return min(1.0, (progress.fraction + _one_step(progress)) / self.fraction)

    def num_steps(self, of: float) -> float:
        """Its length in a run of so many steps."""
        return self.fraction * of if self.steps is None else self.steps


def _one_step(progress: Progress) -> float:
    """The part of the run that one step takes; by the clock, as measured so far."""
    return progress.fraction / progress.step if progress.step else 1 / progress.num_steps


def _checked_factor(final_factor: float) -> float:
    if not 0 <= final_factor <= 1:
        raise ConfigError(f"final_factor: expected 0 to 1, got {final_factor}")
    return final_factor


def _check_phases(num_steps: float, *phases: _Phase) -> None:
    if math.isinf(num_steps):
        return
    needed = sum(phase.num_steps(num_steps) for phase in phases)
    if needed < num_steps or all(phase.steps is None for phase in phases):
        return
    given = " + ".join(f"{phase.name} of {phase.num_steps(num_steps):g} steps" for phase in phases)
    raise ConfigError(
        f"schedule: {given} must be shorter than the run of {num_steps:g} steps; "
        f"shorten it (or give it as a fraction), or train for more steps"
    )
