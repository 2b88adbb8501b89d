"""Parameter groups, schedules and averages of weights."""

from clipkit.optim.ema import WeightAverage
from clipkit.optim.parameter_groups import ParameterGroups
from clipkit.optim.schedules import Progress, Schedule, WarmupCosine, WarmupStableDecay

__all__ = [
    "ParameterGroups",
    "Progress",
    "Schedule",
    "WarmupCosine",
    "WarmupStableDecay",
    "WeightAverage",
]
