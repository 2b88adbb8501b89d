"""Losses: terms of the objective as classes and as functions, and their weighted sum."""

from clipkit.losses.accumulation import MicroBatchedEncoder, embed_in_micro_batches
from clipkit.losses.combined import CombinedLoss, WeightedTerm
from clipkit.losses.contrastive import ContrastiveLoss, LabelAwareContrastiveLoss, SigmoidLoss
from clipkit.losses.distillation import DistillationLoss
from clipkit.losses.functional import (
    contrastive_loss,
    feature_distillation_loss,
    global_contrastive_loss,
    label_loss,
    multi_label_loss,
    sigmoid_loss,
    similarity_distillation_loss,
)
from clipkit.losses.global_contrastive import GlobalContrastiveLoss
from clipkit.losses.joint.candidates import CandidateLoss
from clipkit.losses.joint.distillation import (
    FusedStateDistillationLoss,
    MaskedWordDistillationLoss,
    MatchingDistillationLoss,
)
from clipkit.losses.joint.fused_labels import FusedLabelLoss
from clipkit.losses.joint.masked_words import MaskedWordLoss
from clipkit.losses.joint.matching import MatchingLoss
from clipkit.losses.label import LabelLoss, MultiLabelLoss, balanced_class_weights
from clipkit.losses.matryoshka import MatryoshkaLoss
from clipkit.losses.memory import complete_state_dict
from clipkit.losses.modality_pairs import ModalityLabelLoss, ModalityPairLoss
from clipkit.losses.momentum_teacher import MomentumTeacher, follow_student, update_teachers
from clipkit.losses.step_exchange import StepExchange
from clipkit.losses.teachers import EncoderTeacher, StoredTeacher, Teacher
from clipkit.losses.term import LossTerm, Term, mean_over_ranks
from clipkit.schedules import (
    ConstantSchedule,
    CosineSchedule,
    LinearSchedule,
    Schedule,
    StepSchedule,
)

__all__ = [
    "CandidateLoss",
    "CombinedLoss",
    "ConstantSchedule",
    "ContrastiveLoss",
    "CosineSchedule",
    "DistillationLoss",
    "EncoderTeacher",
    "FusedLabelLoss",
    "FusedStateDistillationLoss",
    "GlobalContrastiveLoss",
    "LabelAwareContrastiveLoss",
    "LabelLoss",
    "LinearSchedule",
    "LossTerm",
    "MaskedWordDistillationLoss",
    "MaskedWordLoss",
    "MatchingDistillationLoss",
    "MatchingLoss",
    "MatryoshkaLoss",
    "MicroBatchedEncoder",
    "ModalityLabelLoss",
    "ModalityPairLoss",
    "MomentumTeacher",
    "MultiLabelLoss",
    "Schedule",
    "SigmoidLoss",
    "StepExchange",
    "StepSchedule",
    "StoredTeacher",
    "Teacher",
    "Term",
    "WeightedTerm",
    "balanced_class_weights",
    "complete_state_dict",
    "contrastive_loss",
    "embed_in_micro_batches",
    "feature_distillation_loss",
    "follow_student",
    "global_contrastive_loss",
    "label_loss",
    "mean_over_ranks",
    "multi_label_loss",
    "sigmoid_loss",
    "similarity_distillation_loss",
    "update_teachers",
]
