"""Accuracy, macro recall and calibration of a rare class, with and without class weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipkit.losses import LabelLoss
from clipkit.metrics.calibration import reliability
from clipkit.types import Batch, Embeddings


def draw(seed: int, size: int = 4000) -> tuple[Tensor, Tensor]:
    """One feature, two standard deviations greater for the 5 % of the samples of class 1."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.rand(size, generator=generator) < 0.05).long()
    return torch.randn(size, 1, generator=generator) + 2 * labels[:, None], labels


def measured(class_counts: Sequence[int] | None) -> dict[str, float]:
    """Fit a logistic regression to its minimum, and measure it on other samples."""
    features, labels = draw(0)
    size = len(labels)
    images, tokens = torch.zeros(size, 3, 1, 1, dtype=torch.uint8), torch.zeros(size, 1).long()
    batch = Batch(images, tokens, labels, ("",) * size)
    loss, head = LabelLoss(class_counts=class_counts), torch.nn.Linear(1, 2)
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)
    optimizer = torch.optim.LBFGS(head.parameters(), max_iter=60)

    def step() -> Tensor:
        optimizer.zero_grad()
        logits = head(features)
        value = loss(Embeddings(features, features, torch.tensor(1.0), label_logits=logits), batch)
        value.backward()
        return value

    optimizer.step(step)
    features, labels = draw(1)
    with torch.no_grad():
        confidence, chosen = head(features).softmax(1).max(1)
    right = chosen == labels
    recalls = [right[labels == label].double().mean().item() for label in (0, 1)]
    return {
        "top1": right.double().mean().item(),
        "mean_per_class_recall": sum(recalls) / 2,
        "ece": reliability(confidence, right).error(),
    }


def test_weights_of_classes_gain_macro_recall_and_lose_calibration() -> None:
    """Whose figures are those of docs/domains.md."""
    _, labels = draw(0)
    plain, weighted = measured(None), measured(labels.bincount().tolist())
    assert {name: round(100 * value, 1) for name, value in plain.items()} == {
        "top1": 95.5,
        "mean_per_class_recall": 64.1,
        "ece": 0.6,
    }
    assert weighted["top1"] < 0.94
    assert weighted["mean_per_class_recall"] > 0.77
    assert weighted["ece"] > 0.03
    majority = (draw(1)[1] == 0).double().mean().item()
    assert weighted["top1"] < majority < plain["top1"] < majority + 0.01
