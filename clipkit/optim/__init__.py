"""Parameter groups, schedules and moving averages of weights."""

from typing import TYPE_CHECKING

from clipkit.optim.ema import EmaWeights
from clipkit.optim.parameter_groups import ParameterGroups
from clipkit.renamed_arguments import refuse_renamed
from clipkit.schedules import Schedule, WarmupCosine, WarmupStableDecay
from clipkit.when import Progress, When

if not TYPE_CHECKING:
    __getattr__ = refuse_renamed(__name__, {"WeightAverage": "EmaWeights"})

__all__ = [
    "EmaWeights",
    "ParameterGroups",
    "Progress",
    "Schedule",
    "WarmupCosine",
    "WarmupStableDecay",
    "When",
]
