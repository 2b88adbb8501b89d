"""Parameter groups, schedules and moving averages of weights."""

from clipkit.optim.ema import EmaWeights
from clipkit.optim.parameter_groups import ParameterGroups
from clipkit.schedules import Schedule, WarmupCosine, WarmupStableDecay
from clipkit.when import Progress, When

__all__ = [
    "EmaWeights",
    "ParameterGroups",
    "Progress",
    "Schedule",
    "WarmupCosine",
    "WarmupStableDecay",
    "When",
]
