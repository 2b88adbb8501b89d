"""The Lightning side: modules, data module, callbacks."""

from clipkit.training.contrastive_module import ContrastiveModule
from clipkit.training.datamodule import PairDataModule
from clipkit.training.metrics_csv import MetricsCsv
from clipkit.training.sharded_strategy import ShardedStrategy
from clipkit.training.sources import MixedSource

__all__ = [
    "ContrastiveModule",
    "MetricsCsv",
    "MixedSource",
    "PairDataModule",
    "ShardedStrategy",
]
