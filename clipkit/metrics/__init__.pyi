from .classification import ClassificationMetrics
from .functional import (
    classification_accuracy,
    mean_per_class_recall,
    retrieval_ranks,
    retrieval_recall,
    topk_accuracy,
)
from .per_class import average_precisions, mean_average_precision
from .retrieval import RetrievalMetrics

__all__ = [
    "ClassificationMetrics",
    "RetrievalMetrics",
    "average_precisions",
    "classification_accuracy",
    "mean_average_precision",
    "mean_per_class_recall",
    "retrieval_ranks",
    "retrieval_recall",
    "topk_accuracy",
]
