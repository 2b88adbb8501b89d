"""Evaluation during training."""

from __future__ import annotations

from typing import Any, final

from lightning.pytorch import Callback, LightningModule, Trainer

from clipkit.errors import ConfigError, check_at_least
from clipkit.evaluation import EvaluationSuite, Evaluator
from clipkit.training.callbacks.moving_average import average_in_place
from clipkit.training.lightning_compat import callbacks_of, encoder_of, is_accumulating


@final
class ZeroShotEvaluation(Callback):
    """Evaluators that run during ``fit``, ``validate`` and ``test``, with their metrics logged.

    They run with every validation and test, every ``every_n_steps`` optimizer steps if that is set,
    and at the end of the fit if the weights have changed since. Metrics are logged as
    ``NAME/KEY``, so ``emoji/text_to_image/recall_at_1`` can be monitored; ``SaveCheckpoint`` also
    takes NAME alone, for the evaluator's primary metric.

    Args:
        evaluators: Evaluators by name.
        every_n_steps: Optimizer steps between two evaluations, for training without validation
            pairs; None for none.

    Raises:
        ConfigError: If there is no evaluator, or ``every_n_steps`` is not positive.

    Examples:
        >>> callback = ZeroShotEvaluation({"squares": Retrieval("data/val")}, every_n_steps=100)
    """

    def __init__(self, evaluators: dict[str, Evaluator], every_n_steps: int | None = None) -> None:
        if not evaluators:
            raise ConfigError("ZeroShotEvaluation.evaluators: expected at least one, got none")
        check_at_least("ZeroShotEvaluation.every_n_steps", every_n_steps, 1)
        self.evaluators = evaluators
        self.every_n_steps = every_n_steps
        self._measured_step = -1

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Measure every ``every_n_steps`` optimizer steps."""
        if self.every_n_steps is None or is_accumulating(trainer):
            return
        step = trainer.global_step
        if step % self.every_n_steps == 0 and step != self._measured_step:
            self._write(trainer, self._measure(trainer, pl_module))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure with every validation, before ``SaveCheckpoint`` reads the metrics."""
        if not trainer.sanity_checking:
            pl_module.log_dict(self._measure(trainer, pl_module), batch_size=1)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure with every test."""
        pl_module.log_dict(self._measure(trainer, pl_module), batch_size=1)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the final weights of the fit."""
        if trainer.global_step != self._measured_step:
            self._write(trainer, self._measure(trainer, pl_module))

    def _write(self, trainer: Trainer, metrics: dict[str, float]) -> None:
        """Pass metrics to the loggers: ``log`` is closed at the end, and repeats them before."""
        for logger in trainer.loggers:
            # Lightning logs a validation at this moment under the same step.
            logger.log_metrics(metrics, step=trainer.global_step - 1)

    def _measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Return the metrics of all evaluators, the same on every rank."""
        self._measured_step = trainer.global_step
        with average_in_place(trainer):
            return EvaluationSuite(self.evaluators).run(encoder_of(pl_module))


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
