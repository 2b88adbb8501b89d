"""Search the hyperparameters of a run with Optuna (``pip install 'clipkit[tune]'``)."""

from clipkit.tuning.page import write_page
from clipkit.tuning.search import launch_trial, tune
from clipkit.tuning.space import option_path, read_space, with_values
from clipkit.tuning.study import StudySettings, open_study
from clipkit.tuning.summary import StudySummary, TrialSummary

__all__ = [
    "StudySettings",
    "StudySummary",
    "TrialSummary",
    "launch_trial",
    "open_study",
    "option_path",
    "read_space",
    "tune",
    "with_values",
    "write_page",
]
