"""Lightning modules, data module, callbacks, loggers and strategies."""

from typing import TYPE_CHECKING

from clipkit.renamed_arguments import refuse_renamed
from clipkit.training.datamodule.options import (
    MixtureOptions,
    MixtureSource,
    PairOptions,
    StorageOptions,
    ValidationOptions,
    WebDatasetOptions,
)
from clipkit.training.datamodule.pair_datamodule import PairDataModule
from clipkit.training.lightning_compat import hide_advertisements
from clipkit.training.loggers.metrics_csv import MetricsCsv
from clipkit.training.loggers.trackio_logger import TrackioLogger
from clipkit.training.module.contrastive_module import ContrastiveModule
from clipkit.training.preflight.callback import Preflight
from clipkit.training.strategies.fsdp import ShardedStrategy

hide_advertisements()

if not TYPE_CHECKING:
    __getattr__ = refuse_renamed(__name__, {"MixedSource": "MixtureSource"})

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
    "TrackioLogger",
    "ValidationOptions",
    "WebDatasetOptions",
]
