"""The step counter of a fit: at its start, in checkpoints, and after a resume."""

from __future__ import annotations

from collections.abc import Mapping

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from clipkit.training.lightning_compat import data_of
from clipkit.training.progress.run_progress import (
    StepCounter,
    resume_counter,
    run_progress,
    samples_of_step,
)
from clipkit.when import Progress


def samples_of_fit(trainer: Trainer) -> int | None:
    """Return the samples per optimizer step over all ranks in a fit; None if unknown."""
    batch_size = getattr(data_of(trainer), "batch_size", None)
    if trainer.state.fn != TrainerFn.FITTING or batch_size is None:
        return None
    return samples_of_step(trainer, int(batch_size))


def first_counter(trainer: Trainer) -> StepCounter:
    """Return the counter of a run that starts now."""
    samples = samples_of_fit(trainer)
    return StepCounter() if samples is None else StepCounter(step_samples=samples, now=samples)


def counter_entry(counter: StepCounter, global_step: int) -> dict[str, float]:
    """Return what a checkpoint holds of a counter."""
    return {"step_samples": counter.step_samples, "steps": counter.steps_at(global_step)}


def stored_counter(trainer: Trainer, stored: Mapping[str, float], global_step: int) -> StepCounter:
    """Return the counter of a checkpoint, which a fit continues."""
    samples = samples_of_fit(trainer)
    if samples is None:
        return StepCounter(step_samples=int(stored["step_samples"]))
    return resume_counter(trainer, stored, global_step, samples)


def validation_progress(trainer: Trainer, num_steps: float, counter: StepCounter) -> Progress:
    """Return the progress of the fit; outside of it that of the loss, at the end of the run.

    Args:
        trainer: Trainer that validates or tests.
        num_steps: Number of steps of the loss, used outside of a fit.
        counter: Step counter of the module.
    """
    if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking:
        return run_progress(trainer)
    elapsed = 0.0 if trainer.sanity_checking else 1.0
    return Progress(num_steps, elapsed=elapsed, step_samples=counter.step_samples)
