"""Evaluation during training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast, final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from clipkit.errors import ConfigError, check_at_least
from clipkit.evaluation import Evaluator
from clipkit.evaluation.evaluators.suite import flat_metrics
from clipkit.evaluation.memory import remembering
from clipkit.models import DualEncoder
from clipkit.training.callbacks.evaluation_budget import EvaluationBudget
from clipkit.training.callbacks.moving_average import average_in_place
from clipkit.training.lightning_compat import (
    all_callbacks,
    callbacks_of,
    encoder_of,
    is_accumulating,
)
from clipkit.training.progress.run_progress import run_progress
from clipkit.when import Progress, When


@final
class ZeroShotEvaluation(Callback):
    """Evaluators that run during ``fit``, ``validate`` and ``test``, with their metrics logged.

    They run with every validation and test, every ``every_n_steps`` optimizer steps if that is set,
    and at the end of the fit if the weights have changed since. All ranks divide the images of an
    evaluator. Metrics are logged as ``NAME/KEY``, so ``emoji/text_to_image/recall_at_1`` can be
    monitored; ``SaveCheckpoint`` also takes NAME alone, for the evaluator's primary metric.

    Args:
        evaluators: Evaluators by name.
        every_n_steps: Optimizer steps between two evaluations, for training without validation
            pairs, or another interval: ``{samples: 1000000}``, ``{fraction: 0.1}`` of the run. None
            for none.
        budget_seconds: Seconds that an evaluation may take during a fit. Evaluators that would
            exceed it by the time that they took last are left out with a warning, and come first
            next time; one whose metric is monitored by another callback is never left out. The end
            of the fit has no budget. None for no limit.

    Raises:
        ConfigError: If there is no evaluator, or a number is not positive.

    Examples:
        >>> callback = ZeroShotEvaluation({"squares": Retrieval("data/val")}, every_n_steps=100)
    """

    def __init__(
        self,
        evaluators: dict[str, Evaluator],
        every_n_steps: int | When | None = None,
        budget_seconds: float | None = None,
    ) -> None:
        if not evaluators:
            raise ConfigError("ZeroShotEvaluation.evaluators: expected at least one, got none")
        if not isinstance(every_n_steps, When):
            check_at_least("ZeroShotEvaluation.every_n_steps", every_n_steps, 1)
        elif not (every_n_steps.step or every_n_steps.samples or every_n_steps.fraction):
            raise ConfigError(
                f"ZeroShotEvaluation.every_n_steps: expected more than 0, got {every_n_steps}"
            )
        if budget_seconds is not None and budget_seconds <= 0:
            raise ConfigError(
                f"ZeroShotEvaluation.budget_seconds: expected more than 0, got {budget_seconds}"
            )
        self.evaluators = evaluators
        self.every_n_steps = every_n_steps
        self.budget_seconds = budget_seconds
        self._budget = EvaluationBudget(budget_seconds)
        self._num_intervals = 0
        self._measured_steps: dict[str, int] = {}  # at which each evaluator ran last

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start counting intervals at the position of the run."""
        if isinstance(self.every_n_steps, When):
            self._num_intervals = intervals(run_progress(trainer), self.every_n_steps)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Measure when an interval has passed."""
        if self.every_n_steps is None or is_accumulating(trainer):
            return
        is_due = self._is_due(trainer)
        if is_due and trainer.global_step not in self._measured_steps.values():
            self._write(trainer, self._measure(trainer, pl_module, self._budget))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure with every validation, before ``SaveCheckpoint`` reads the metrics."""
        if not trainer.sanity_checking:
            is_fit = trainer.state.fn == TrainerFn.FITTING
            budget = self._budget if is_fit else EvaluationBudget(None)
            pl_module.log_dict(self._measure(trainer, pl_module, budget), batch_size=1)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure with every test."""
        metrics = self._measure(trainer, pl_module, EvaluationBudget(None))
        pl_module.log_dict(metrics, batch_size=1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the final weights of the fit, by every evaluator that has not done so."""
        step = trainer.global_step
        names = [name for name in self.evaluators if self._measured_steps.get(name) != step]
        if names:
            self._write(trainer, self._measure(trainer, pl_module, EvaluationBudget(None), names))

    def _is_due(self, trainer: Trainer) -> bool:
        if isinstance(self.every_n_steps, int):
            return trainer.global_step % self.every_n_steps == 0
        assert self.every_n_steps is not None
        before = self._num_intervals
        self._num_intervals = intervals(run_progress(trainer), self.every_n_steps)
        return self._num_intervals > before

    def _write(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Pass metrics to the loggers: ``log`` is closed at the end, and repeats them before."""
        for logger in trainer.loggers:
            # Lightning logs a validation at this moment under the same step.
            logger.log_metrics(metrics, step=trainer.global_step - 1)

    def _measure(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        budget: EvaluationBudget,
        names: Sequence[str] = (),
    ) -> dict[str, float]:
        """Return the metrics of evaluators that fit into the budget, the same on every rank.

        Without names, those of all evaluators.
        """
        names = names or list(self.evaluators)
        always = {name for name in names if _is_monitored(trainer, name)}
        metrics, encoder = {}, encoder_of(pl_module)
        with average_in_place(trainer), remembering():
            for name in budget.turns(names, always, trainer.global_step, pl_module.device):
                # an evaluator refuses an encoder that lacks one of its towers
                metrics[name] = self.evaluators[name].run(cast(DualEncoder, encoder))
                self._measured_steps[name] = trainer.global_step
        return flat_metrics({name: metrics[name] for name in names if name in metrics})


def intervals(progress: Progress, interval: When) -> int:
    """Return how often an interval has passed since the start of a run.

    Examples:
        >>> intervals(Progress(step=30, num_steps=100), When(fraction=0.1))
        3
    """
    steps = interval.steps(progress)
    if steps is None:
        return int(progress.fraction / interval.share(progress) + 1e-9)
    return int(progress.step / steps + 1e-9)


def _is_monitored(trainer: Trainer, name: str) -> bool:
    """Return whether a callback monitors a metric of an evaluator."""
    monitors = [getattr(callback, "monitor", None) for callback in all_callbacks(trainer)]
    return any(
        isinstance(monitor, str) and f"{monitor}/".startswith(f"{name}/") for monitor in monitors
    )


def resolve_monitor(trainer: Trainer, monitor: str) -> tuple[str, bool]:
    """Return the key of a monitored metric and whether a greater value of it is better."""
    for callback in callbacks_of(trainer, ZeroShotEvaluation):
        for name, evaluator in callback.evaluators.items():
            if monitor == name and not evaluator.primary_metric:
                raise ConfigError(
                    f"monitor: the evaluator {name!r} declares no primary_metric; expected the "
                    f"key of one of its metrics, {name}/KEY"
                )
            key = f"{name}/{evaluator.primary_metric}"
            if monitor in (name, key):
                return key, evaluator.greater_is_better
    return monitor, True
