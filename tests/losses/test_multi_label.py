"""Several classes at once against torch's binary cross-entropy on the known entries."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from clipkit.errors import ConfigError
from clipkit.losses import MultiLabelLoss
from clipkit.types import IGNORE_LABEL, Embeddings
from tests.losses.oracles import make_batch, unit_rows

TARGETS = torch.tensor([[1, 0, 1], [0, IGNORE_LABEL, 1], [IGNORE_LABEL] * 3, [0, 0, 0]])


def embeddings(logits):
    one = unit_rows(4, 3, 0, torch.float32)
    return Embeddings(one, one, torch.tensor(1.0), label_logits=logits)


@pytest.mark.parametrize("weights", [None, [0.5, 2.0, 9.0]])
def test_equals_torch_on_the_known_entries(weights):
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    batch = replace(make_batch(4), multi_labels=TARGETS)
    term = MultiLabelLoss(weights).term(embeddings(logits), batch)
    known = TARGETS != IGNORE_LABEL
    expanded = torch.tensor(weights or [1.0] * 3).expand(4, 3)[known]
    expected = F.binary_cross_entropy_with_logits(
        logits[known], TARGETS[known].float(), pos_weight=expanded
    )
    torch.testing.assert_close(term.value, expected)
    assert term.num_samples == 3
    got, wanted = (
        torch.autograd.grad(value, logits, retain_graph=True)[0] for value in (term.value, expected)
    )
    torch.testing.assert_close(got, wanted)


def test_nothing_known_is_zero_with_a_graph():
    logits = torch.randn(4, 3).requires_grad_()
    batch = replace(make_batch(4), multi_labels=torch.full((4, 3), IGNORE_LABEL))
    value = MultiLabelLoss()(embeddings(logits), batch)
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros(4, 3))


def test_bad_targets_are_refused():
    logits = torch.zeros(4, 3)
    with pytest.raises(ConfigError, match="got none"):
        MultiLabelLoss()(embeddings(logits), make_batch(4))
    with pytest.raises(ConfigError, match=r"expected \[4, 3\].*\[4, 2\]"):
        MultiLabelLoss()(embeddings(logits), replace(make_batch(4), multi_labels=TARGETS[:, :2]))
    with pytest.raises(ConfigError, match="0, 1 or -100 for unknown, got 2"):
        MultiLabelLoss()(embeddings(logits), replace(make_batch(4), multi_labels=TARGETS * 2))
    with pytest.raises(ConfigError, match="positive_weights: expected 3"):
        MultiLabelLoss([1.0])(embeddings(logits), replace(make_batch(4), multi_labels=TARGETS))
    with pytest.raises(ConfigError, match="below 0"):
        MultiLabelLoss([-1.0])
    with pytest.raises(ConfigError, match="no label_head"):
        MultiLabelLoss()(embeddings(None), replace(make_batch(4), multi_labels=TARGETS))
