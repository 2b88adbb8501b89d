"""Exact retrieval and classification metrics, as functions and as torchmetrics states.

The states are imported when they are first asked for: torchmetrics takes three seconds, which the
pure functions need not wait for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipkit.metrics.classification import ClassificationMetrics
    from clipkit.metrics.retrieval import RetrievalMetrics

__all__ = ["ClassificationMetrics", "RetrievalMetrics"]

_HOMES = {
    "ClassificationMetrics": "clipkit.metrics.classification",
    "RetrievalMetrics": "clipkit.metrics.retrieval",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
