"""How far a run is, by whichever of its limits ends it first."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import timedelta

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from clipkit.errors import ConfigError


@dataclass(frozen=True, slots=True)
class RunProgress:
    """Where a run stands.

    Args:
        step: Optimizer steps that are behind.
        num_steps: Optimizer steps of the whole run; infinite where only the clock ends it.
        fraction: Part of the run that is behind, 0 to 1.
    """

    step: int
    num_steps: float
    fraction: float


def run_progress(trainer: Trainer) -> RunProgress:
    """Where ``trainer``'s fit stands, the same on every rank; to be called on all of them.

    With ``max_time`` the fraction of the time that is behind counts where it is ahead of the
    fraction of steps: a run of five minutes ends its schedule after five minutes, on any machine.

    Raises:
        ConfigError: If nothing ends the run.
    """
    fraction = _clock_fraction(trainer)
    if fraction is not None and trainer.world_size > 1:
        # Clocks differ, learning rates must not.
        fraction = float(trainer.strategy.broadcast(fraction))
    return _progress(trainer, fraction)


def local_progress(trainer: Trainer) -> RunProgress:
    """As ``run_progress``, by this rank's own clock; for showing only."""
    return _progress(trainer, _clock_fraction(trainer))


def total_steps(trainer: Trainer) -> float:
    """Optimizer steps until ``max_steps`` or ``max_epochs``; infinite where neither is set.

    Lightning's own ``estimated_stepping_batches`` is not read: it sets up the loaders too early.
    """
    limits = [math.inf]
    if trainer.max_steps >= 0:
        limits.append(trainer.max_steps)
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        batches = trainer.num_training_batches
        limits.append(trainer.max_epochs * math.ceil(batches / trainer.accumulate_grad_batches))
    return max(1.0, min(limits))


def time_limit(trainer: Trainer) -> Timer | None:
    """The timer behind ``max_time``, or None."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    limited = [timer for timer in timers if timer.time_remaining() is not None]
    return limited[0] if limited else None


def time_budget(trainer: Trainer) -> timedelta | None:
    """``max_time`` as a duration, or None."""
    timer = time_limit(trainer)
    remaining = timer.time_remaining() if timer else None
    if timer is None or remaining is None:
        return None
    # The clock goes on between the two readings; a limit has no microseconds.
    return timedelta(seconds=round(timer.time_elapsed() + remaining, 3))


def _progress(trainer: Trainer, by_clock: float | None) -> RunProgress:
    step, num_steps = trainer.global_step, total_steps(trainer)
    if by_clock is None and math.isinf(num_steps):
        raise ConfigError(
            "trainer: nothing ends this run; set max_steps, max_epochs or max_time "
            "(the schedule of the learning rate needs an end)"
        )
    return RunProgress(step, num_steps, min(1.0, max(step / num_steps, by_clock or 0.0)))


def _clock_fraction(trainer: Trainer) -> float | None:
    timer, budget = time_limit(trainer), time_budget(trainer)
    if timer is None or budget is None:
        return None
    return timer.time_elapsed() / max(budget.total_seconds(), 1e-9)
