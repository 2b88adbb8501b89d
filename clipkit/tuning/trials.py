"""Run the trials of a study, each as a training run in a separate folder."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import optuna
import yaml
from optuna.trial import TrialState

from clipkit.atomic_files import write_text
from clipkit.errors import ConfigError
from clipkit.training.callbacks.optuna_pruning import RESULT_NAME
from clipkit.tuning.space import decoded, option_path, with_values
from clipkit.tuning.study import STUDY_NAME, StudySettings, fail_trial, num_finished, storage_url

LOG_NAME: Final = "log.txt"
_REPORTER: Final = "clipkit.training.callbacks.OptunaPruning"
_SIGNAL_EXIT: Final = 128
_MAX_FAILURES: Final = 3

Launch = Callable[[Path], int]
"""Runs the configuration file of a trial; returns the exit status of its process."""


def run_trials(
    study: optuna.Study,
    output: Path,
    settings: StudySettings,
    launch: Launch,
    *,
    num_trials: int,
    seconds: float | None = None,
    on_trial: Callable[[optuna.Study], None],
) -> None:
    """Run trials until enough are finished or the time is over."""
    end = math.inf if seconds is None else time.monotonic() + seconds
    failures = 0
    while num_finished(study) < num_trials and time.monotonic() < end:
        trial = study.ask(dict(settings.space))
        message = _run_trial(study, trial, output, settings, launch)
        on_trial(study)
        failures = failures + 1 if message else 0
        is_invalid = message.startswith("clipkit: error:") and num_finished(study) == 0
        if is_invalid or failures == _MAX_FAILURES:
            log = trial_folder(output, trial.number) / LOG_NAME
            raise ConfigError(f"trial {trial.number}: {message} (see {log})")


def signal_of(status: int) -> int | None:
    """Return the signal that ended a process; None if no signal did.

    Examples:
        >>> signal_of(-9), signal_of(143), signal_of(2)
        (9, 15, None)
    """
    if status < 0:
        return -status
    return status - _SIGNAL_EXIT if status > _SIGNAL_EXIT else None


def trial_folder(output: Path, number: int) -> Path:
    """Return the run folder of a trial."""
    return output / "trials" / f"{number:04d}"


def _run_trial(
    study: optuna.Study, trial: optuna.Trial, output: Path, settings: StudySettings, launch: Launch
) -> str:
    """Run one trial and report it to the study; return the cause of a failure, or an empty text."""
    values = {name: decoded(value) for name, value in trial.params.items()}
    trial.set_user_attr("values", json.dumps(values))
    folder = trial_folder(output, trial.number)
    status = launch(_write_config(folder, trial.number, values, output, settings))
    result = _result(folder)
    if (number := signal_of(status)) is not None:
        message = f"killed by signal {number}"
        fail_trial(study, trial.number, message, retry=True)
        return message
    if status != 0 or result is None:
        message = _last_line(folder / LOG_NAME) or f"exit status {status}"
    elif result["value"] is None:
        message = f"{settings.metric} is not finite"
    else:
        if result["pruned"]:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, result["value"])
        return ""
    fail_trial(study, trial.number, message, retry=False)
    return message


def _write_config(
    folder: Path, number: int, values: Mapping[str, Any], output: Path, settings: StudySettings
) -> Path:
    """Write the complete configuration of a trial into its folder."""
    config = settings.config
    callbacks = config["trainer"].get("callbacks") or []
    reporter = {
        "class_path": _REPORTER,
        "init_args": {
            "storage": storage_url(output),
            "study": STUDY_NAME,
            "trial": number,
            "metric": settings.metric,
            "pruner": settings.pruner,
        },
    }
    changed = {option_path(name, config, "space"): value for name, value in values.items()}
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    changed["trainer", "callbacks"] = [*listed, reporter]
    changed["trainer", "default_root_dir"] = str(folder)
    path = folder / "trial.yaml"
    write_text(path, yaml.safe_dump(with_values(config, changed), sort_keys=False))
    return path


def _result(folder: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads((folder / RESULT_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content


def _last_line(path: Path) -> str:
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
