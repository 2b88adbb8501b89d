"""Callbacks of a run; one job a file."""

from typing import TYPE_CHECKING, Final

from clipkit.renamed_arguments import refuse_renamed
from clipkit.training.callbacks.key_log import KeyLog
from clipkit.training.callbacks.moving_average import ExponentialMovingAverage
from clipkit.training.callbacks.optuna_pruning import OptunaPruning
from clipkit.training.callbacks.parameter_summary import ParameterSummary
from clipkit.training.callbacks.performance.profile_steps import ProfileSteps
from clipkit.training.callbacks.performance.straggler_report import StragglerReport
from clipkit.training.callbacks.performance.throughput import Throughput
from clipkit.training.callbacks.performance.torch_backends import TorchBackends
from clipkit.training.callbacks.performance.watchdog import Watchdog
from clipkit.training.callbacks.progress_bar import ProgressBar
from clipkit.training.callbacks.replace_run import ReplaceRun
from clipkit.training.callbacks.run_files.run_recorder import RunRecorder
from clipkit.training.callbacks.run_files.save_config import SaveConfig
from clipkit.training.callbacks.save_checkpoint import SaveCheckpoint
from clipkit.training.callbacks.step_guard import StepGuard
from clipkit.training.callbacks.stop_on_signal import StopOnSignal
from clipkit.training.callbacks.towers.activation_checkpointing import ActivationCheckpointing
from clipkit.training.callbacks.towers.add_lora import AddLora
from clipkit.training.callbacks.towers.compile_step import CompileStep
from clipkit.training.callbacks.towers.compile_towers import CompileTowers
from clipkit.training.callbacks.towers.float8_training import Float8Training
from clipkit.training.callbacks.towers.lock_tower import LockTower, Unlock
from clipkit.training.callbacks.towers.set_logit_scale import SetLogitScale
from clipkit.training.callbacks.towers.token_schedule import TokenSchedule, TokenStage
from clipkit.training.callbacks.write_embeddings import WriteEmbeddings
from clipkit.training.callbacks.zero_shot_evaluation import ZeroShotEvaluation

RENAMED: Final = {
    "AverageWeights": "ExponentialMovingAverage",
    "PrintParameters": "ParameterSummary",
    "RecomputeActivations": "ActivationCheckpointing",
    "ReportTrial": "OptunaPruning",
}
"""Callbacks of version 0.1, and their names today."""


if not TYPE_CHECKING:
    __getattr__ = refuse_renamed(__name__, RENAMED)

__all__ = [
    "ActivationCheckpointing",
    "AddLora",
    "CompileStep",
    "CompileTowers",
    "ExponentialMovingAverage",
    "Float8Training",
    "KeyLog",
    "LockTower",
    "OptunaPruning",
    "ParameterSummary",
    "ProfileSteps",
    "ProgressBar",
    "ReplaceRun",
    "RunRecorder",
    "SaveCheckpoint",
    "SaveConfig",
    "SetLogitScale",
    "StepGuard",
    "StopOnSignal",
    "StragglerReport",
    "Throughput",
    "TokenSchedule",
    "TokenStage",
    "TorchBackends",
    "Unlock",
    "Watchdog",
    "WriteEmbeddings",
    "ZeroShotEvaluation",
]
