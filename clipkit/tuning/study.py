"""A study of hyperparameters that can be stopped at any moment and goes on where it was."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

from clipkit.atomic_files import write_json, write_text
from clipkit.errors import ConfigError
from clipkit.training.callbacks.report_trial import RESULT_NAME, make_pruner
from clipkit.tuning.space import Dimension, option_path, with_values

STUDY_NAME: Final = "clipkit"
STORAGE_NAME: Final = "study.sqlite3"
_REPORTER: Final = "clipkit.training.callbacks.ReportTrial"
_STOPPED: Final = 128
_MAX_TRIES: Final = 2
_MAX_FAILURES: Final = 3

Launch = Callable[[Path], int]
"""Runs the configuration of a trial; gives its exit status as ``killed_by`` reads it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What makes a study; all of it stays the same when the study goes on.

    Args:
        config: The resolved configuration that the trials vary.
        space: What is varied.
        metric: Name of the logged metric that is the objective.
        direction: "minimize" or "maximize".
        pruner: See ``make_pruner``.
        seed: Seed of the choice of values.
    """

    config: Mapping[str, Any]
    space: Mapping[str, Dimension]
    metric: str
    direction: str
    pruner: str = "median"
    seed: int = 0

    def described(self) -> dict[str, Any]:
        """Plain types to compare and to store."""
        return {
            "metric": self.metric,
            "direction": self.direction,
            "space": {name: repr(dimension) for name, dimension in self.space.items()},
            "config": dict(self.config),
        }


def open_study(output: Path, settings: Settings) -> Any:
    """The study of a folder, begun or gone on with.

    Trials that a killed process left running are marked as failed, and tried again.

    Args:
        output: Folder of the study.
        settings: What it studies.

    Returns:
        An ``optuna.Study``.

    Raises:
        ConfigError: If the folder holds another study.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    output.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        study_name=STUDY_NAME,
        storage=_storage(output),
        direction=settings.direction,
        pruner=make_pruner(settings.pruner),
        load_if_exists=True,
    )
    _check_same(study, settings, output)
    for trial in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
        _give_up(study, trial.number, "killed")
    # The same seed again would propose again what it proposed before.
    number = len(study.get_trials(deepcopy=False))
    study.sampler = optuna.samplers.TPESampler(seed=settings.seed + number)
    return study


def run_trials(
    study: Any,
    output: Path,
    settings: Settings,
    launch: Launch,
    *,
    trials: int,
    seconds: float | None = None,
    after_each: Callable[[Any], None],
) -> None:
    """Run trials until there are enough, or the time is over.

    Args:
        study: What ``open_study`` gave.
        output: Folder of the study.
        settings: What it studies.
        launch: Runs one trial.
        trials: Finished and pruned trials that the study shall have, earlier ones counted.
        seconds: No trial begins after this time.
        after_each: Called with the study after each trial.

    Raises:
        ConfigError: If the first trial cannot run, or several in a row.
    """
    end = math.inf if seconds is None else time.monotonic() + seconds
    failures = 0
    while num_finished(study) < trials and time.monotonic() < end:
        trial = study.ask()
        message = _run_trial(study, trial, output, settings, launch)
        after_each(study)
        failures = failures + 1 if message else 0
        hopeless = message.startswith("clipkit: error:") and num_finished(study) == 0
        if hopeless or failures == _MAX_FAILURES:
            log = trial_folder(output, trial.number) / "log.txt"
            raise ConfigError(f"trial {trial.number}: {message} (see {log})")


def killed_by(status: int) -> int | None:
    """The signal that ended a process, or that it stopped for in its own time; None for none.

    Args:
        status: Negative where the signal killed it; 128 and the signal where it stopped itself,
            as a run does after SIGTERM.

    Examples:
        >>> killed_by(-9), killed_by(143), killed_by(2)
        (9, 15, None)
    """
    if status < 0:
        return -status
    return status - _STOPPED if status > _STOPPED else None


def num_finished(study: Any) -> int:
    """Trials that gave a value or were pruned."""
    from optuna.trial import TrialState

    states = (TrialState.COMPLETE, TrialState.PRUNED)
    return len(study.get_trials(deepcopy=False, states=states))


def trial_folder(output: Path, number: int) -> Path:
    """The run's folder of a trial."""
    return output / "trials" / f"{number:04d}"


def write_best(study: Any, output: Path, settings: Settings) -> None:
    """Write ``best.yaml``: the configuration of the best trial, without its link to the study."""
    trial = study.best_trial
    values = json.loads(trial.user_attrs["values"])
    paths = {option_path(name, settings.config, "best"): value for name, value in values.items()}
    config = with_values(settings.config, paths)
    head = (
        f"# clipkit fit -c {output / 'best.yaml'}\n"
        f"# Trial {trial.number}: {settings.metric} = {trial.value:g}\n"
    )
    write_text(output / "best.yaml", head + yaml.safe_dump(config, sort_keys=False))


def _run_trial(study: Any, trial: Any, output: Path, settings: Settings, launch: Launch) -> str:
    """Run one trial and tell the study; what went wrong, or nothing."""
    from optuna.trial import TrialState

    values = {name: dimension.suggest(trial, name) for name, dimension in settings.space.items()}
    trial.set_user_attr("values", json.dumps(values))
    folder = trial_folder(output, trial.number)
    status = launch(_write_config(folder, trial.number, values, output, settings))
    result = _result(folder)
    if (number := killed_by(status)) is not None:
        message = f"killed by signal {number}"
        _give_up(study, trial.number, message)
    elif status != 0 or result is None:
        message = _last_line(folder / "log.txt") or f"ended with status {status}"
        _give_up(study, trial.number, message, again=False)
    elif result["value"] is None:
        message = f"{settings.metric} is not finite"
        _give_up(study, trial.number, message, again=False)
    else:
        if result["pruned"]:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, result["value"])
        message = ""
    return message


def _write_config(
    folder: Path, number: int, values: Mapping[str, Any], output: Path, settings: Settings
) -> Path:
    """The whole configuration of a trial, in its folder."""
    base = settings.config
    trainer = base["trainer"]
    callbacks = trainer.get("callbacks") or []
    reporter = {
        "class_path": _REPORTER,
        "init_args": {
            "storage": _storage(output),
            "study": STUDY_NAME,
            "trial": number,
            "metric": settings.metric,
            "pruner": settings.pruner,
        },
    }
    listed = callbacks if isinstance(callbacks, list) else [callbacks]
    changed = {option_path(name, base, "space"): value for name, value in values.items()}
    changed["trainer", "callbacks"] = [*listed, reporter]
    changed["trainer", "default_root_dir"] = str(folder)
    path = folder / "trial.yaml"
    write_text(path, yaml.safe_dump(with_values(base, changed), sort_keys=False))
    return path


def _give_up(study: Any, number: int, message: str, *, again: bool = True) -> None:
    """Mark a trial as failed, and put its values at the head of the queue for another try."""
    from optuna.trial import Trial, TrialState

    frozen = study.get_trials(deepcopy=False)[number]
    Trial(study, frozen._trial_id).set_user_attr("error", message)
    study.tell(number, state=TrialState.FAIL)
    tries = int(frozen.user_attrs.get("tries", 1))
    if again and frozen.params and tries < _MAX_TRIES:
        study.enqueue_trial(frozen.params, user_attrs={"tries": tries + 1, "retry_of": number})


def _check_same(study: Any, settings: Settings, output: Path) -> None:
    described = settings.described()
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", json.dumps(described, default=str))
        return
    now = json.loads(json.dumps(described, default=str))
    changed = [key for key, value in json.loads(known).items() if now[key] != value]
    if changed:
        raise ConfigError(
            f"--output: {output} holds a study with another {' and '.join(changed)}; go on with "
            f"the options that it was begun with, or give another folder"
        )


def _storage(output: Path) -> str:
    return f"sqlite:///{(output / STORAGE_NAME).resolve()}"


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


def write_summary(study: Any, output: Path, settings: Settings) -> dict[str, Any]:
    """Write ``study.json`` and return its contents: settings, the best trial, every trial."""
    best = None if not _has_best(study) else study.best_trial.number
    trials = [
        {
            "number": trial.number,
            "state": trial.state.name.lower(),
            "value": trial.value,
            "values": json.loads(trial.user_attrs.get("values", "{}")),
            "steps": {
                str(step): value if math.isfinite(value) else None
                for step, value in trial.intermediate_values.items()
            },
            "seconds": trial.duration.total_seconds() if trial.duration else None,
            "error": trial.user_attrs.get("error"),
            "retry_of": trial.user_attrs.get("retry_of"),
        }
        for trial in study.get_trials(deepcopy=False)
    ]
    summary = {
        "metric": settings.metric,
        "direction": settings.direction,
        "best": best,
        "trials": trials,
    }
    write_json(output / "study.json", summary)
    return summary


def _has_best(study: Any) -> bool:
    from optuna.trial import TrialState

    return bool(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
