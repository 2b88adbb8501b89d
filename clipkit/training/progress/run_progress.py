"""Progress of a run, by the limit that ends it first.

Schedules count *reference steps*. A reference step is the number of samples per optimizer step at
the first launch. If batch size or world size changes later, progress is computed as samples
consumed / samples per reference step, so the schedule and the end of training do not move.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Final
from weakref import WeakKeyDictionary

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Timer

from clipkit.errors import ConfigError
from clipkit.training.datamodule.pair_datamodule import PairDataModule
from clipkit.training.lightning_compat import callbacks_of, check_time_per_epoch, data_of
from clipkit.training.progress.epoch_steps import samples_of_epochs
from clipkit.training.progress.shared_clock import SharedClock
from clipkit.when import Progress, When

_LOG: Final = logging.getLogger(__name__)
_CLOCKS: WeakKeyDictionary[Trainer, SharedClock] = WeakKeyDictionary()


@dataclass(frozen=True, slots=True)
class StepCounter:
    """Convert optimizer steps to reference steps after the step size has changed.

    Examples:
        >>> StepCounter(step_samples=8, now=4, samples=32, global_step=4).steps_at(10)
        7.0
    """

    # number of samples of a reference step, over all ranks, after all stages of the batch size
    step_samples: int = 1
    now: int = 1  # number of samples of an optimizer step now
    samples: int = 0  # number of samples consumed when the step size changed
    global_step: int = 0  # number of optimizer steps completed when the step size changed
    # number of reference steps that end the run; None for that of the trainer
    max_steps: int | None = None

    def samples_at(self, global_step: int) -> int:
        """Return the samples consumed after ``global_step`` optimizer steps."""
        return self.samples + (global_step - self.global_step) * self.now

    def steps_at(self, global_step: int) -> float:
        """Return the reference steps completed after ``global_step`` optimizer steps."""
        return self.samples_at(global_step) / self.step_samples


def pair_data(trainer: Trainer) -> PairDataModule | None:
    """Return the trainer's data module if it is clipkit's."""
    data = data_of(trainer)
    return data if isinstance(data, PairDataModule) else None


def samples_of_step(trainer: Trainer, batch_size: int) -> int:
    """Return the samples per optimizer step, over all ranks."""
    return int(batch_size * trainer.world_size * trainer.accumulate_grad_batches)


def change_step_size(
    trainer: Trainer, step_counter: StepCounter, global_step: int, now: int
) -> StepCounter:
    """Continue with steps of another size, and end training after the same samples."""
    limit = trainer.max_steps if step_counter.max_steps is None else step_counter.max_steps
    samples = step_counter.samples_at(global_step)
    if limit >= 0:
        left = max(0, limit * step_counter.step_samples - samples)
        trainer.fit_loop.epoch_loop.max_steps = global_step + -(-left // now)
    return StepCounter(
        step_counter.step_samples, now, samples, global_step, limit if limit >= 0 else None
    )


def resume_counter(
    trainer: Trainer, stored: Mapping[str, float], global_step: int, now: int
) -> StepCounter:
    """Continue the step counter of a checkpoint."""
    step_samples = int(stored["step_samples"])
    samples = round(stored["steps"] * step_samples)
    step_counter = StepCounter(step_samples, now, samples, global_step)
    if now != step_samples:
        _LOG.warning(
            "a step has %d samples now and had %d at the first launch; max_steps and warm-up "
            "still count steps of %d samples", now, step_samples, step_samples,
        )  # fmt: skip
    if samples == global_step * step_samples and now == step_samples:
        return step_counter
    return change_step_size(trainer, step_counter, global_step, now)


def run_progress(trainer: Trainer) -> Progress:
    """Return the progress of ``trainer``'s fit, the same on every rank; call it on all ranks.

    With ``max_time`` the fraction of the time counts if it is ahead of the fraction of steps: a run
    of five minutes completes its schedule after five minutes, on any machine.
    """
    return _progress(trainer, _shared_fraction(trainer))


def start_clock(trainer: Trainer) -> None:
    """Begin to share the clocks of the ranks of a fit with a time limit; call it on all ranks.

    Lightning's ``Timer`` would send its verdict to all ranks in every step;
    ``stop_when_time_is_over`` replaces it there.
    """
    _CLOCKS.pop(trainer, None)
    if trainer.world_size > 1:
        for timer in callbacks_of(trainer, Timer):
            check_time_per_epoch(timer)


def stop_when_time_is_over(trainer: Trainer) -> None:
    """End a fit over several ranks after its time limit; call it on all ranks after every batch."""
    if trainer.world_size == 1 or trainer.should_stop:
        return
    if (_shared_fraction(trainer) or 0.0) >= 1:
        trainer.should_stop = True
        if trainer.is_global_zero:
            _LOG.info("trainer.max_time is over: the run ends after this step")


def _shared_fraction(trainer: Trainer) -> float | None:
    """Return the fraction of the time limit, the same on every rank; None without a limit."""
    fraction = _clock_fraction(trainer)
    if fraction is None or trainer.world_size == 1:
        return fraction
    if trainer not in _CLOCKS:
        first = float(trainer.strategy.broadcast(fraction))
        _CLOCKS[trainer] = SharedClock(trainer.global_step, first)
    return _CLOCKS[trainer].at(trainer.global_step, fraction)


def reached_after(trainer: Trainer, moment: When) -> Callable[[int], bool] | None:
    """Return whether a moment is reached after a number of further samples of all ranks.

    It answers what ``run_progress`` will show then; true after the end of the run. None if that
    cannot be known: a fraction of a run with a time limit, or a module that counts no samples.
    """
    counter = getattr(trainer.lightning_module, "step_counter", None)
    is_timed = moment.unit == "fraction" and _seconds(trainer) is not None
    if not isinstance(counter, StepCounter) or is_timed:
        return None
    samples, num_steps = counter.samples_at(trainer.global_step), total_steps(trainer)

    def is_reached(more: int) -> bool:
        step = (samples + more) / counter.step_samples
        progress = Progress(step, num_steps, None, counter.step_samples)
        return step >= num_steps or moment.is_reached(progress)

    return is_reached


def local_progress(trainer: Trainer) -> Progress:
    """Return the progress by this rank's clock, for display only."""
    return _progress(trainer, _clock_fraction(trainer))


def total_steps(trainer: Trainer) -> float:
    """Return the steps until ``max_steps`` or ``max_epochs``; infinite if neither is set.

    Lightning's ``estimated_stepping_batches`` is not used: it sets up the loaders too early.
    """
    step_counter = _step_counter(trainer)
    limits = [math.inf]
    max_steps = trainer.max_steps if step_counter.max_steps is None else step_counter.max_steps
    if max_steps >= 0:
        limits.append(max_steps)
    if trainer.max_epochs is not None and trainer.max_epochs >= 0:
        limits.append(_steps_of_epochs(trainer, step_counter, trainer.max_epochs))
    return max(1.0, min(limits))


def time_budget(trainer: Trainer) -> timedelta | None:
    """Return ``max_time`` as a duration, or None."""
    seconds = _seconds(trainer)
    return None if seconds is None else timedelta(seconds=seconds[1])


def _progress(trainer: Trainer, by_clock: float | None) -> Progress:
    step, num_steps = _step_counter(trainer).steps_at(trainer.global_step), total_steps(trainer)
    if by_clock is None and math.isinf(num_steps):
        raise ConfigError(
            "trainer: nothing ends this run; set max_steps, max_epochs or max_time "
            "(the schedule of the learning rate needs an end)"
        )
    return Progress(step, num_steps, by_clock, _step_counter(trainer).step_samples)


def _steps_of_epochs(trainer: Trainer, step_counter: StepCounter, num_epochs: int) -> float:
    """Return the reference steps of ``num_epochs`` epochs, from the first one on."""
    if (data := pair_data(trainer)) is not None and data.train_stream.partition.varies:
        partition = data.train_stream.partition
        samples = samples_of_epochs(partition, num_epochs, trainer.limit_train_batches)
        return samples / step_counter.step_samples
    steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
    return num_epochs * steps * step_counter.now / step_counter.step_samples


def _step_counter(trainer: Trainer) -> StepCounter:
    step_counter = getattr(trainer.lightning_module, "step_counter", None)
    return step_counter if isinstance(step_counter, StepCounter) else StepCounter()


def _clock_fraction(trainer: Trainer) -> float | None:
    seconds = _seconds(trainer)
    return None if seconds is None else seconds[0] / max(seconds[1], 1e-9)


def _seconds(trainer: Trainer) -> tuple[float, float] | None:
    """Return the seconds so far, and those of ``max_time``; None without such a limit."""
    for timer in callbacks_of(trainer, Timer):
        if (remaining := timer.time_remaining()) is not None:
            elapsed = timer.time_elapsed()
            # Time passes between the two readings; a limit has no microseconds.
            return elapsed, round(elapsed + remaining, 3)
    return None
