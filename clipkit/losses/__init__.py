"""The objective: contrastive, sigmoid, label and combined losses."""

from clipkit.losses.combined import CombinedLoss
from clipkit.losses.contrastive import ContrastiveLoss, LabelAwareContrastiveLoss
from clipkit.losses.label import LabelLoss, balanced_class_weights
from clipkit.losses.sigmoid import SigmoidLoss
from clipkit.losses.term import LossTerm, Term

__all__ = [
    "CombinedLoss",
    "ContrastiveLoss",
    "LabelAwareContrastiveLoss",
    "LabelLoss",
    "LossTerm",
    "SigmoidLoss",
    "Term",
    "balanced_class_weights",
]
