"""Labels and options that the label losses refuse, and weights from counts."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import LabelLoss, MultiLabelLoss, balanced_class_weights
from clipkit.types import IGNORE_LABEL, Embeddings
from tests.helpers.oracles import make_batch, unit_rows

LABELS = torch.tensor([2, IGNORE_LABEL, 0, 2, 1, IGNORE_LABEL])


def with_logits(logits):
    one = unit_rows(len(logits), 4, 0, torch.float32)
    return Embeddings(one, one, torch.tensor(10.0), None, logits)


def random_logits(size=6, classes=3, seed=0):
    return torch.randn(size, classes, generator=torch.Generator().manual_seed(seed)) * 3


def test_labels_are_checked():
    batch = make_batch(6, LABELS)
    with pytest.raises(ConfigError, match="no label_head"):
        LabelLoss()(_headless(), batch)
    with pytest.raises(ConfigError, match=r"expects 7.*has 3"):
        LabelLoss(7)(with_logits(random_logits()), batch)
    with pytest.raises(ConfigError, match="expected 0 to 1 or -100 for none, got 2"):
        LabelLoss()(with_logits(random_logits(classes=2)), batch)
    with pytest.raises(ConfigError, match="got None"):
        LabelLoss()(with_logits(random_logits()))
    with pytest.raises(ConfigError, match="label_smoothing"):
        LabelLoss(label_smoothing=1.5)
    with pytest.raises(ConfigError, match="class_weights: expected 3"):
        LabelLoss(3, class_weights=[1.0, 2.0])
    with pytest.raises(ConfigError, match="below 0"):
        LabelLoss(class_weights=[1.0, -2.0])


def _headless():
    one = unit_rows(6, 4, 0, torch.float32)
    return Embeddings(one, one, torch.tensor(10.0))


def test_balanced_weights():
    weights = balanced_class_weights([100, 10, 0, 1], beta=0.99)
    effective = [(1 - 0.99**n) / (1 - 0.99) for n in (100, 10, 1)]
    ratios = [weights[0] / weights[3], weights[1] / weights[3]]
    assert ratios == pytest.approx([effective[2] / effective[0], effective[2] / effective[1]])
    assert weights[2] == 0
    assert sum(weights) == pytest.approx(3)
    assert balanced_class_weights([5, 500], beta=0) == [1, 1]
    with pytest.raises(ConfigError, match="beta"):
        balanced_class_weights([1], beta=1)
    with pytest.raises(ConfigError, match="counts"):
        balanced_class_weights([0, 0])


def test_counts_of_the_classes_become_weights():
    loss = LabelLoss(class_counts=[100, 10, 1], balance=0.99)
    weights = balanced_class_weights([100, 10, 1], beta=0.99)
    assert loss.class_weights.tolist() == pytest.approx(weights)
    with pytest.raises(ConfigError, match="got both"):
        LabelLoss(class_weights=[1.0], class_counts=[1])


TARGETS = torch.tensor([[1, 0, 1], [0, IGNORE_LABEL, 1], [IGNORE_LABEL] * 3, [0, 0, 0]])


def test_bad_targets_are_refused():
    logits = torch.zeros(4, 3)
    with pytest.raises(ConfigError, match="got none"):
        MultiLabelLoss()(with_logits(logits), make_batch(4))
    with pytest.raises(ConfigError, match=r"expected \[4, 3\].*\[4, 2\]"):
        MultiLabelLoss()(with_logits(logits), replace(make_batch(4), multi_labels=TARGETS[:, :2]))
    with pytest.raises(ConfigError, match="0, 1 or -100 for unknown, got 2"):
        MultiLabelLoss()(with_logits(logits), replace(make_batch(4), multi_labels=TARGETS * 2))
    with pytest.raises(ConfigError, match="positive_weights: expected 3"):
        MultiLabelLoss([1.0])(with_logits(logits), replace(make_batch(4), multi_labels=TARGETS))
    with pytest.raises(ConfigError, match="below 0"):
        MultiLabelLoss([-1.0])
    with pytest.raises(ConfigError, match="no label_head"):
        MultiLabelLoss()(_headless(), replace(make_batch(4), multi_labels=TARGETS))
