"""Callbacks of a run; one job a file."""

from clipkit.training.callbacks.average_weights import AverageWeights
from clipkit.training.callbacks.key_log import KeyLog
from clipkit.training.callbacks.parameter_table import PrintParameters
from clipkit.training.callbacks.progress_bar import ProgressBar
from clipkit.training.callbacks.replace_run import ReplaceRun
from clipkit.training.callbacks.report_trial import ReportTrial
from clipkit.training.callbacks.save_checkpoint import SaveCheckpoint
from clipkit.training.callbacks.save_config import SaveConfig
from clipkit.training.callbacks.step_guard import StepGuard
from clipkit.training.callbacks.stop_on_signal import StopOnSignal
from clipkit.training.callbacks.throughput import Throughput
from clipkit.training.callbacks.towers.add_lora import AddLora
from clipkit.training.callbacks.towers.compile_towers import CompileTowers
from clipkit.training.callbacks.towers.lock_tower import LockTower, Unlock
from clipkit.training.callbacks.towers.recompute_activations import (
    RecomputeActivations,
)
from clipkit.training.callbacks.towers.set_logit_scale import SetLogitScale
from clipkit.training.callbacks.towers.token_schedule import TokenSchedule, TokenStage
from clipkit.training.callbacks.watchdog import Watchdog
from clipkit.training.callbacks.write_embeddings import WriteEmbeddings
from clipkit.training.callbacks.zero_shot_evaluation import ZeroShotEvaluation

__all__ = [
    "AddLora",
    "AverageWeights",
    "CompileTowers",
    "KeyLog",
    "LockTower",
    "PrintParameters",
    "ProgressBar",
    "RecomputeActivations",
    "ReplaceRun",
    "ReportTrial",
    "SaveCheckpoint",
    "SaveConfig",
    "SetLogitScale",
    "StepGuard",
    "StopOnSignal",
    "Throughput",
    "TokenSchedule",
    "TokenStage",
    "Unlock",
    "Watchdog",
    "WriteEmbeddings",
    "ZeroShotEvaluation",
]
