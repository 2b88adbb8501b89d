"""Lightning modules, data module, callbacks, loggers and strategies."""

from clipkit.training.datamodule.options import (
    MixtureOptions,
    MixtureSource,
    PairOptions,
    StorageOptions,
    ValidationOptions,
)
from clipkit.training.datamodule.pair_datamodule import PairDataModule
from clipkit.training.loggers.metrics_csv import MetricsCsv
from clipkit.training.module.contrastive_module import ContrastiveModule
from clipkit.training.preflight.callback import Preflight
from clipkit.training.strategies.fsdp import ShardedStrategy

__all__ = [
    "ContrastiveModule",
    "MetricsCsv",
    "MixtureOptions",
    "MixtureSource",
    "PairDataModule",
    "PairOptions",
    "Preflight",
    "ShardedStrategy",
    "StorageOptions",
    "ValidationOptions",
]
