"""The objective of a fine-tuning run, chosen by what the data bring."""

from __future__ import annotations

from typing import Any, Final

from clipkit.losses import balanced_class_weights
from clipkit.training.finetune.facts import FinetuneData

_IMBALANCE: Final = 3.0
"""The largest class has so many times the samples of the smallest: rare classes get weight."""


def objective(
    data: FinetuneData, embedding_dim: int, reasons: list[str]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, float]]:
    """Loss, label head and learning-rate factors.

    Args:
        data: What is trained on.
        embedding_dim: Components of the model's embeddings.
        reasons: Sentences that say why are added here.

    Returns:
        The loss, options of the encoder, and factors by part, all as a configuration has them.
    """
    if not data.class_counts:
        reasons.append("no classes: the contrastive loss of captions alone")
        loss: dict[str, Any] = {"contrastive": {"class_path": "clipkit.losses.ContrastiveLoss"}}
        return loss, {}, {}
    head = {
        "class_path": "clipkit.models.LinearLabelHead",
        "init_args": {"embedding_dim": embedding_dim, "num_classes": len(data.class_counts)},
    }
    loss = _several_classes(data, reasons) if data.multi_label else _one_class(data, reasons)
    return loss, {"label_head": head}, {"label_head": 10.0}


def _several_classes(data: FinetuneData, reasons: list[str]) -> dict[str, Any]:
    """The loss where a sample may have several classes."""
    reasons.append(
        "several classes a sample: a linear head says yes or no to each of them, "
        + (
            "beside the contrastive loss of the captions"
            if data.has_captions
            else "and the text tower rests, for there are no captions but the names of classes"
        )
    )
    return {
        "contrastive": {"class_path": "clipkit.losses.ContrastiveLoss"},
        "label": {"class_path": "clipkit.losses.MultiLabelLoss"},
        "contrastive_weight": 1.0 if data.has_captions else 0.0,
        "label_weight": 0.5 if data.has_captions else 1.0,
    }


def _one_class(data: FinetuneData, reasons: list[str]) -> dict[str, Any]:
    """The loss where a sample has one class."""
    reasons.append(
        "classes: pairs of one class are right answers for each other (UniCL), and a linear head "
        "learns beside it"
        + ("" if data.has_captions else "; captions are class names in sentences")
    )
    label: dict[str, Any] = {"label_smoothing": 0.1}
    present = [count for count in data.class_counts if count]
    if max(present) >= _IMBALANCE * min(present):
        weights = balanced_class_weights(data.class_counts)
        label["class_weights"] = [round(weight, 4) for weight in weights]
        reasons.append(
            f"the largest class has {max(present)} samples, the smallest {min(present)}: rare "
            f"classes weigh more in the label loss"
        )
    return {
        "contrastive": {"class_path": "clipkit.losses.LabelAwareContrastiveLoss"},
        "label": {"class_path": "clipkit.losses.LabelLoss", "init_args": label},
        "label_weight": 0.5,
    }
