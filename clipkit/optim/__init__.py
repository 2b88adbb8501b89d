"""Parameter groups, schedules and moving averages of weights."""

from clipkit.optim.ema import WeightAverage
from clipkit.optim.parameter_groups import ParameterGroups
from clipkit.schedules import Schedule, WarmupCosine, WarmupStableDecay
from clipkit.when import Progress, When

__all__ = [
    "ParameterGroups",
    "Progress",
    "Schedule",
    "WarmupCosine",
    "WarmupStableDecay",
    "WeightAverage",
    "When",
]
