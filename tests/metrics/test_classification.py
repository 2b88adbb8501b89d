"""Accuracies against sklearn-like loops, with ties, repeats and samples without labels."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.errors import MetricError
from clipkit.metrics import ClassificationMetrics
from clipkit.metrics.functional import (
    classification_accuracy,
    mean_per_class_recall,
    topk_accuracy,
)
from clipkit.types import IGNORE_LABEL


def naive(scores, labels, k):
    hits = [
        sum(other >= row[label] for j, other in enumerate(row) if j != label) < k
        for row, label in zip(scores.tolist(), labels.tolist(), strict=True)
        if label != IGNORE_LABEL
    ]
    return sum(hits) / len(hits)


@given(seed=st.integers(0, 1000), size=st.integers(1, 20), classes=st.integers(2, 7))
@settings(max_examples=50, deadline=None)
def test_accuracies_equal_the_loop(seed, size, classes):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 4, (size, classes), generator=generator).float()  # many ties
    labels = torch.randint(0, classes, (size,), generator=generator)
    labels[1:][torch.rand(size - 1, generator=generator) < 0.3] = IGNORE_LABEL
    got = topk_accuracy(scores, labels, ks=(1, 2, 9))
    assert got == pytest.approx({f"top{k}": naive(scores, labels, k) for k in (1, 2)})
    per_class = [
        naive(scores[labels == c], labels[labels == c], 1) for c in labels.unique() if c >= 0
    ]
    assert mean_per_class_recall(scores, labels) == pytest.approx(sum(per_class) / len(per_class))


def test_equal_scores_are_never_hits():
    labels = torch.arange(4)
    assert classification_accuracy(torch.zeros(4, 4), labels, ks=(1, 3)) == {
        "top1": 0.0,
        "top3": 0.0,
        "mean_per_class_recall": 0.0,
    }


def test_bad_input_raises():
    scores, labels = torch.eye(3), torch.arange(3)
    with pytest.raises(MetricError, match="NaN"):
        topk_accuracy(scores.log() - scores.log(), labels)
    with pytest.raises(MetricError, match="0 to 2, got 0 to 3"):
        topk_accuracy(scores, torch.tensor([0, 1, 3]))
    with pytest.raises(MetricError, match="at least one"):
        topk_accuracy(scores, torch.full((3,), IGNORE_LABEL))
    with pytest.raises(MetricError, match="at least one"):
        mean_per_class_recall(scores, torch.full((3,), IGNORE_LABEL))
    with pytest.raises(MetricError, match="expected 4 columns"):
        ClassificationMetrics(4).update(scores, labels, labels)


def test_metric_equals_the_function_and_drops_repeats():
    generator = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(50, 6, generator=generator), torch.arange(50) % 6
    labels[::5] = IGNORE_LABEL
    metric = ClassificationMetrics(6, ks=(1, 5))
    for part in (*torch.arange(50).split(8), torch.arange(10)):
        metric.update(scores[part], labels[part], part)
    got = {name: value.item() for name, value in metric.compute().items()}
    assert got == pytest.approx(classification_accuracy(scores, labels))
