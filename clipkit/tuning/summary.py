"""Write the results of a study: ``study.json`` and the configuration of the best trial."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, TypedDict

import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState

from clipkit.atomic_files import write_json, write_text
from clipkit.tuning.space import option_path, with_values
from clipkit.tuning.study import StudySettings


class TrialSummary(TypedDict):
    """A trial in ``study.json``.

    Attributes:
        number: Number of the trial, from 0.
        state: "complete", "pruned", "fail", "running" or "waiting".
        value: Final value of the metric; None if there is none.
        values: Values of the varied options, by dotted name.
        steps: Reported values of the metric, by step; None for a value that is not finite.
        seconds: Duration; None if the trial is not finished.
        error: Cause of a failure; None if there was none.
        retry_of: Number of the failed trial with the same values; None for a first try.
    """

    number: int
    state: str
    value: float | None
    values: dict[str, Any]
    steps: dict[str, float | None]
    seconds: float | None
    error: str | None
    retry_of: int | None


class StudySummary(TypedDict):
    """The content of ``study.json``.

    Attributes:
        metric: Name of the metric.
        direction: "minimize" or "maximize".
        best: Number of the best trial; None before the first complete trial.
        trials: All trials, in the order of their numbers.
    """

    metric: str
    direction: str
    best: int | None
    trials: list[TrialSummary]


def write_summary(study: optuna.Study, output: Path, settings: StudySettings) -> StudySummary:
    """Write ``study.json`` and return its content."""
    is_complete = bool(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    summary: StudySummary = {
        "metric": settings.metric,
        "direction": settings.direction,
        "best": study.best_trial.number if is_complete else None,
        "trials": [_trial_summary(trial) for trial in study.get_trials(deepcopy=False)],
    }
    write_json(output / "study.json", summary)
    return summary


def write_best(study: optuna.Study, output: Path, settings: StudySettings) -> None:
    """Write ``best.yaml``: the configuration of the best trial, without its link to the study."""
    trial = study.best_trial
    values = json.loads(trial.user_attrs["values"])
    paths = {option_path(name, settings.config, "best"): value for name, value in values.items()}
    head = (
        f"# clipkit fit -c {output / 'best.yaml'}\n"
        f"# Trial {trial.number}: {settings.metric} = {trial.value:g}\n"
    )
    text = yaml.safe_dump(with_values(settings.config, paths), sort_keys=False)
    write_text(output / "best.yaml", head + text)


def _trial_summary(trial: FrozenTrial) -> TrialSummary:
    return {
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
