"""Search the hyperparameters of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import optuna
from filelock import FileLock, Timeout

from clipkit.errors import ConfigError, check_at_least
from clipkit.training.launch import launch_fit
from clipkit.tuning.page import write_page
from clipkit.tuning.space import bounds, option_path, with_values
from clipkit.tuning.study import StudySettings, open_study
from clipkit.tuning.summary import StudySummary, write_best, write_summary
from clipkit.tuning.trials import LOG_NAME, Launch, run_trials

_LOCK_SECONDS: Final = 10
"""A killed process holds its lock until its memory has been freed."""


def launch_trial(config: Path) -> int:
    """Run a trial in a separate process; its output goes to ``log.txt`` next to ``config``.

    Args:
        config: Complete configuration of the trial.

    Returns:
        The exit status, negative if a signal killed the process.
    """
    return launch_fit(config, log=config.parent / LOG_NAME)


def tune(
    settings: StudySettings,
    output: Path | str,
    *,
    num_trials: int = 20,
    max_minutes: float | None = None,
    check: Callable[[dict[str, Any]], None] | None = None,
    launch: Launch = launch_trial,
    on_trial: Callable[[StudySummary], None] | None = None,
) -> StudySummary:
    """Search hyperparameters with Optuna; a study that was stopped continues.

    Each trial is a training run in a separate folder. After each trial ``study.html``,
    ``study.json`` and ``best.yaml`` are written.

    Args:
        settings: What is varied, and what is optimised.
        output: Folder of the study.
        num_trials: Number of complete and pruned trials of the study, including those of earlier
            calls.
        max_minutes: No trial starts after this time; None for no limit.
        check: Raises ``ConfigError`` if a configuration is invalid. It is called before the first
            trial with the bounds of every range and with every choice. None to skip the check.
        launch: Runs the configuration file of a trial; returns the exit status of its process.
        on_trial: Called with the summary after each trial; None for no call.

    Returns:
        The summary that is also written to ``study.json``.

    Raises:
        ConfigError: If the space does not fit the configuration, the folder contains another study,
            another process works on it, or trials fail.

    Examples:
        >>> from optuna.distributions import FloatDistribution
        >>> config = {"trainer": {}, "model": {"lr": 0.1}}
        >>> space = {"model.lr": FloatDistribution(1e-4, 1e-1, log=True)}
        >>> def run(config_file):  # in place of a training run
        ...     result = '{"value": 0.5, "pruned": false}'
        ...     (config_file.parent / "trial.json").write_text(result)
        ...     return 0
        >>> settings = StudySettings(config, space, "val/loss", "minimize")
        >>> tune(settings, "study", num_trials=2, launch=run)["best"]
        0
    """
    output = Path(output)
    check_at_least("trials", num_trials, 1)
    output.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(output / ".lock", timeout=_LOCK_SECONDS):
            check_space(settings, check)
            return _search(settings, output, num_trials, max_minutes, launch, on_trial)
    except Timeout as error:
        raise ConfigError(
            f"{output}: another process works on this study; wait, or choose another folder"
        ) from error


def check_space(settings: StudySettings, check: Callable[[dict[str, Any]], None] | None) -> None:
    """Check that every option of the space exists and accepts the bounds of its distribution."""
    config = settings.config
    for name, distribution in settings.space.items():
        path = option_path(name, config, "space")
        if check is None:
            continue
        for value in bounds(distribution):
            try:
                check(with_values(config, {path: value}))
            except ConfigError as error:
                raise ConfigError(f"space: {name}: {value!r}: {error}") from error


def _search(
    settings: StudySettings,
    output: Path,
    num_trials: int,
    max_minutes: float | None,
    launch: Launch,
    on_trial: Callable[[StudySummary], None] | None,
) -> StudySummary:
    def write_results(study: optuna.Study) -> None:
        summary = write_summary(study, output, settings)
        write_page(output / "study.html", summary)
        if summary["best"] is not None:
            write_best(study, output, settings)
        if on_trial is not None:
            on_trial(summary)

    study = open_study(output, settings)
    seconds = None if max_minutes is None else 60 * max_minutes
    run_trials(
        study, output, settings, launch,
        num_trials=num_trials, seconds=seconds, on_trial=write_results,
    )  # fmt: skip
    return write_summary(study, output, settings)
