"""Exact retrieval and classification metrics, as functions and as torchmetrics states."""

from clipkit.metrics.classification import ClassificationMetrics
from clipkit.metrics.retrieval import RetrievalMetrics

__all__ = ["ClassificationMetrics", "RetrievalMetrics"]
