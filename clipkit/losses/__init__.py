"""The objective: contrastive, sigmoid, label and combined losses."""

from clipkit.losses.accumulation import MicroBatchedEncoder, embed_in_micro_batches
from clipkit.losses.combined import CombinedLoss
from clipkit.losses.contrastive import ContrastiveLoss, LabelAwareContrastiveLoss
from clipkit.losses.label import LabelLoss, balanced_class_weights
from clipkit.losses.schedules import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    Schedule,
    StepSchedule,
)
from clipkit.losses.sigmoid import SigmoidLoss
from clipkit.losses.term import LossTerm, Term

__all__ = [
    "CombinedLoss",
    "ConstantSchedule",
    "ContrastiveLoss",
    "CosineSchedule",
    "LabelAwareContrastiveLoss",
    "LabelLoss",
    "LinearSchedule",
    "LossTerm",
    "MicroBatchedEncoder",
    "Schedule",
    "SigmoidLoss",
    "StepSchedule",
    "Term",
    "balanced_class_weights",
    "embed_in_micro_batches",
]
