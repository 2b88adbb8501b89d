from .answers import vqa_accuracy
from .candidates import candidate_measures
from .classification import ClassificationMetrics
from .functional import (
    classification_accuracy,
    mean_per_class_recall,
    retrieval_ranks,
    retrieval_recall,
    topk_accuracy,
)
from .per_class import average_precisions, mean_average_precision
from .query_values import query_measures
from .ranking import PairRanks, pair_ranks
from .retrieval import RetrievalMetrics

__all__ = [
    "ClassificationMetrics",
    "PairRanks",
    "RetrievalMetrics",
    "average_precisions",
    "candidate_measures",
    "classification_accuracy",
    "mean_average_precision",
    "mean_per_class_recall",
    "pair_ranks",
    "query_measures",
    "retrieval_ranks",
    "retrieval_recall",
    "topk_accuracy",
    "vqa_accuracy",
]
