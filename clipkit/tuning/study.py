"""A study of hyperparameters that can be stopped at any time and continues where it was."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.trial import TrialState

from clipkit.errors import ConfigError
from clipkit.training.callbacks.optuna_pruning import make_pruner

STUDY_NAME: Final = "clipkit"
STORAGE_NAME: Final = "study.sqlite3"
_MAX_TRIES: Final = 2


@dataclass(frozen=True, slots=True)
class StudySettings:
    """Settings of a study; a study continues only with the settings that it was started with.

    Args:
        config: Resolved configuration that the trials vary, such as the ``config.yaml`` of a run.
        space: Distribution of each varied option, by its dotted name.
        metric: Name of the logged metric to optimise, such as "val/loss".
        direction: "minimize" or "maximize".
        pruner: Which trials end early: "median", "halving" or "none"; see ``make_pruner``.
        seed: Seed of the sampler.
    """

    config: Mapping[str, Any]
    space: Mapping[str, BaseDistribution]
    metric: str
    direction: str
    pruner: str = "median"
    seed: int = 0

    def plain(self) -> dict[str, Any]:
        """Return the settings that must not change, as JSON types."""
        space = {name: distribution_to_json(value) for name, value in self.space.items()}
        content = {"metric": self.metric, "direction": self.direction, "space": space}
        text = json.dumps({**content, "config": dict(self.config)}, default=str)
        return dict(json.loads(text))


def open_study(output: Path, settings: StudySettings) -> optuna.Study:
    """Create the study of a folder, or continue it.

    Trials that were running when a process was killed are marked as failed and queued again.

    Args:
        output: Folder of the study.
        settings: Settings of the study.

    Raises:
        ConfigError: If the folder contains a study with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    output.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=STUDY_NAME,
        storage=storage_url(output),
        direction=settings.direction,
        pruner=make_pruner(settings.pruner),
        load_if_exists=True,
    )
    _check_settings(study, settings, output)
    for trial in study.get_trials(states=[TrialState.RUNNING]):
        fail_trial(study, trial.number, "killed", retry=True)
    # The same seed again would propose the same values again.
    num_trials = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + num_trials)
    return study


def fail_trial(study: optuna.Study, number: int, message: str, *, retry: bool) -> None:
    """Mark a trial as failed."""
    frozen = study.get_trials(deepcopy=False)[number]
    optuna.trial.Trial(study, frozen._trial_id).set_user_attr("error", message)
    study.tell(number, state=TrialState.FAIL)
    tries = int(frozen.user_attrs.get("tries", 1))
    if retry and frozen.params and tries < _MAX_TRIES:
        study.enqueue_trial(frozen.params, user_attrs={"tries": tries + 1, "retry_of": number})


def num_finished(study: optuna.Study) -> int:
    """Return the number of trials that are complete or pruned."""
    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


def storage_url(output: Path) -> str:
    """Return the URL of the storage of Optuna in the folder of a study."""
    return f"sqlite:///{(output / STORAGE_NAME).resolve()}"


def _check_settings(study: optuna.Study, settings: StudySettings, output: Path) -> None:
    plain = settings.plain()
    stored = study.user_attrs.get("settings")
    if stored is None:
        study.set_user_attr("settings", json.dumps(plain))
        return
    changed = [key for key, value in json.loads(stored).items() if plain[key] != value]
    if changed:
        raise ConfigError(
            f"{output}: contains a study with another {' and '.join(changed)}; continue with the "
            f"options that it was started with, or choose another folder"
        )
