"""Choose the objective of a fine-tuning run from its captions and classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from clipkit.losses import balanced_class_weights
from clipkit.training.finetune.facts import FinetuneData

_IMBALANCE: Final = 3.0
"""Ratio of the largest to the smallest class from which rare classes get a larger weight."""


def entry(class_path: str, **init_args: Any) -> dict[str, Any]:
    """Return the entry of a configuration for an object of a class of clipkit."""
    path = {"class_path": f"clipkit.{class_path}"}
    return {**path, "init_args": init_args} if init_args else path


def objective(
    data: FinetuneData, embedding_dim: int, reasons: list[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Choose the loss, the label head and the learning-rate factors."""
    if not data.class_counts:
        reasons.append("no classes: only the contrastive loss of captions")
        return {"contrastive": entry("losses.ContrastiveLoss")}, {}, {}
    num_classes = len(data.class_counts)
    head = entry("models.LinearLabelHead", embedding_dim=embedding_dim, num_classes=num_classes)
    loss = _several_classes(data, reasons) if data.multi_label else _one_class(data, reasons)
    return loss, {"label_head": head}, {"label_head": 10.0}


def _several_classes(data: FinetuneData, reasons: list[str]) -> dict[str, Any]:
    """Return the loss for samples with several classes."""
    reasons.append(
        "several classes per sample: a linear head predicts each of them, "
        + (
            "in addition to the contrastive loss of the captions"
            if data.has_captions
            else "and the text tower is not used, because the only captions are class names"
        )
    )
    return {
        "contrastive": entry("losses.ContrastiveLoss"),
        "label": entry("losses.MultiLabelLoss"),
        "contrastive_weight": 1.0 if data.has_captions else 0.0,
        "label_weight": 0.5 if data.has_captions else 1.0,
    }


def _one_class(data: FinetuneData, reasons: list[str]) -> dict[str, Any]:
    """Return the loss for samples with one class."""
    reasons.append(
        "classes: pairs of one class are positives for each other (UniCL), and a linear head is "
        "trained too" + ("" if data.has_captions else "; captions are class names in sentences")
    )
    label: dict[str, Any] = {"label_smoothing": 0.1, **class_weights(data.class_counts, reasons)}
    return {
        "contrastive": entry("losses.LabelAwareContrastiveLoss"),
        "label": entry("losses.LabelLoss", **label),
        "label_weight": 0.5,
    }


def class_weights(counts: Sequence[int], reasons: list[str]) -> dict[str, Any]:
    """Return the weights of classes for a loss; empty if all classes have similar sizes."""
    present = [count for count in counts if count]
    if max(present) < _IMBALANCE * min(present):
        return {}
    reasons.append(
        f"the largest class has {max(present)} samples, the smallest {min(present)}: rare "
        f"classes have a larger weight in the label loss"
    )
    return {"class_weights": [round(weight, 4) for weight in balanced_class_weights(counts)]}
