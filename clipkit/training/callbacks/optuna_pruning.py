"""Report the metric of a run to the study of which it is a trial."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, final

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import Logger

from clipkit.atomic_files import write_json
from clipkit.errors import ClipkitError, ConfigError, check_choice

RESULT_NAME: Final = "trial.json"
PRUNERS: Final = ("median", "halving", "none")


@final
class OptunaPruning(Callback):
    """Reports a metric to an Optuna study during the run, and ends the run if it is pruned.

    ``clipkit tune`` adds it to the configuration of every trial. Values that any callback logs
    under the metric's name are reported. The final value is written to ``trial.json`` in the
    run's folder.

    Args:
        storage: URL of the study's storage.
        study: Name of the study.
        trial: Number of the trial.
        metric: Name of the logged metric.
        pruner: "median", "halving" or "none".

    Raises:
        ConfigError: If the pruner is unknown, or nothing was logged under the metric's name.
    """

    def __init__(
        self, storage: str, study: str, trial: int, metric: str, pruner: str = "median"
    ) -> None:
        check_choice("OptunaPruning.pruner", pruner, PRUNERS)
        self.storage = storage
        self.study = study
        self.trial = trial
        self.metric = metric
        self.pruner = pruner
        self._values = _LastValue(metric)
        self._reported_step = -1
        self._pruned = False
        self._open: Any = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Add a logger that receives the metric."""
        if stage == "fit":
            trainer.loggers = [*trainer.loggers, self._values]

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Report a new value."""
        self._report(trainer)

    def on_train_epoch_end(self, trainer: Trainer, *_: Any) -> None:
        """Report a value of the validation that ended the epoch."""
        self._report(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report the last value and write the result."""
        self._report(trainer)
        if not trainer.is_global_zero:
            return
        if self._values.step < 0:
            known = ", ".join(sorted(self._values.names)) or "nothing"
            raise ConfigError(f"the metric {self.metric!r} was never logged; logged: {known}")
        value = self._values.value
        result = {
            "metric": self.metric,
            "value": value if math.isfinite(value) else None,
            "step": self._values.step,
            "pruned": self._pruned,
        }
        write_json(Path(trainer.default_root_dir) / RESULT_NAME, result)

    def _report(self, trainer: Trainer) -> None:
        # Every rank logs the same names at the same steps, so that all ranks call this together.
        if self._values.step <= self._reported_step or self._pruned:
            return
        self._reported_step = self._values.step
        ends = trainer.is_global_zero and self._has_no_prospects()
        if trainer.world_size > 1:
            ends = bool(trainer.strategy.broadcast(ends))
        if ends:
            self._pruned = trainer.should_stop = True

    def _has_no_prospects(self) -> bool:
        from optuna.exceptions import UpdateFinishedTrialError

        trial = self._open_trial()
        try:
            trial.report(self._values.value, self._values.step)
        except UpdateFinishedTrialError as error:
            raise ClipkitError(f"trial {self.trial}: pruned by its study; this run ends") from error
        return bool(trial.should_prune())

    def _open_trial(self) -> Any:
        if self._open is None:
            import optuna

            optuna.logging.set_verbosity(optuna.logging.WARNING)
            study = optuna.load_study(
                study_name=self.study, storage=self.storage, pruner=make_pruner(self.pruner)
            )
            found = study.get_trials(deepcopy=False)[self.trial]
            self._open = optuna.trial.Trial(study, found._trial_id)
        return self._open


def make_pruner(name: str) -> Any:
    """Return the pruner of Optuna with a name: see ``PRUNERS``."""
    from optuna import pruners

    if name == "median":
        return pruners.MedianPruner()
    return pruners.SuccessiveHalvingPruner() if name == "halving" else pruners.NopPruner()


@final
class _LastValue(Logger):
    """Stores the last value that was logged under one name, and all names."""

    def __init__(self, metric: str) -> None:
        super().__init__()
        self.value = math.nan
        self.step = -1
        self.names: set[str] = set()
        self._metric = metric

    @property
    def name(self) -> str:
        return "trial"

    @property
    def version(self) -> str:
        return ""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self.names |= set(metrics)
        if self._metric in metrics:
            self.value, self.step = float(metrics[self._metric]), int(step or 0)
