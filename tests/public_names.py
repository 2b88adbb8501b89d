"""The packages whose ``__all__`` is the public interface."""

from __future__ import annotations

PACKAGES = (
    "clipkit.data",
    "clipkit.models",
    "clipkit.losses",
    "clipkit.metrics",
    "clipkit.optim",
    "clipkit.training",
    "clipkit.training.callbacks",
    "clipkit.evaluation",
)
