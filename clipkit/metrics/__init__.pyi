from .classification import ClassificationMetrics
from .retrieval import RetrievalMetrics

__all__ = ["ClassificationMetrics", "RetrievalMetrics"]
