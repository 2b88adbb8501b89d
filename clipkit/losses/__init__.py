"""The objective: contrastive, sigmoid, label and combined losses."""

from clipkit.losses.accumulation import MicroBatchedEncoder, embed_in_micro_batches
from clipkit.losses.combined import CombinedLoss
from clipkit.losses.contrastive import ContrastiveLoss, LabelAwareContrastiveLoss
from clipkit.losses.distillation import DistillationLoss
from clipkit.losses.global_contrastive import GlobalContrastiveLoss
from clipkit.losses.label import LabelLoss, balanced_class_weights
from clipkit.losses.multi_label import MultiLabelLoss
from clipkit.losses.schedules import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    Schedule,
    StepSchedule,
)
from clipkit.losses.sigmoid import SigmoidLoss
from clipkit.losses.teachers import EncoderTeacher, StoredTeacher, Teacher
from clipkit.losses.term import LossTerm, Term

__all__ = [
    "CombinedLoss",
    "ConstantSchedule",
    "ContrastiveLoss",
    "CosineSchedule",
    "DistillationLoss",
    "EncoderTeacher",
    "GlobalContrastiveLoss",
    "LabelAwareContrastiveLoss",
    "LabelLoss",
    "LinearSchedule",
    "LossTerm",
    "MicroBatchedEncoder",
    "MultiLabelLoss",
    "Schedule",
    "SigmoidLoss",
    "StepSchedule",
    "StoredTeacher",
    "Teacher",
    "Term",
    "balanced_class_weights",
    "embed_in_micro_batches",
]
