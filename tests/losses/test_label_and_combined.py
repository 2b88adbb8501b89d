"""The label loss, and the weighted sum of terms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from clipkit.errors import ConfigError
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    LabelLoss,
    LinearSchedule,
    SigmoidLoss,
    balanced_class_weights,
)
from clipkit.types import IGNORE_LABEL, Embeddings
from tests.losses.oracles import (
    assert_close,
    make_batch,
    naive_label,
    unit_rows,
    value_and_gradients,
)

LABELS = torch.tensor([2, IGNORE_LABEL, 0, 2, 1, IGNORE_LABEL])


def with_logits(logits):
    one = unit_rows(len(logits), 4, 0, torch.float32)
    return Embeddings(one, one, torch.tensor(10.0), None, logits)


def random_logits(size=6, classes=3, seed=0):
    return torch.randn(size, classes, generator=torch.Generator().manual_seed(seed)) * 3


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
def test_label_loss_equals_the_loop(weights):
    logits = random_logits().double()
    loss, batch = LabelLoss(class_weights=weights), make_batch(6, LABELS)
    got = value_and_gradients(lambda x: loss(with_logits(x), batch), [logits])
    expected = value_and_gradients(lambda x: naive_label(x, LABELS.tolist(), weights), [logits])
    assert_close(got, expected, 1e-7 if weights else 1e-12)
    assert loss.term(with_logits(logits), batch).num_samples == 4


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 3.0]])
def test_label_loss_equals_torch_on_the_labelled(smoothing, weights):
    logits, batch = random_logits(), make_batch(6, LABELS)
    got = LabelLoss(3, smoothing, weights)(with_logits(logits), batch)
    expected = F.cross_entropy(
        logits,
        LABELS,
        None if weights is None else torch.tensor(weights),
        ignore_index=IGNORE_LABEL,
        label_smoothing=smoothing,
    )
    torch.testing.assert_close(got, expected)


def test_without_any_label_the_loss_is_zero_and_keeps_the_graph():
    logits = random_logits().requires_grad_()
    batch = make_batch(6)
    value = LabelLoss()(with_logits(logits), batch)
    value.backward()
    assert value.item() == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_labels_are_checked():
    batch = make_batch(6, LABELS)
    with pytest.raises(ConfigError, match="no label_head"):
        LabelLoss()(_headless(), batch)
    with pytest.raises(ConfigError, match=r"expects 7.*gives 3"):
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


def test_combined_is_the_weighted_sum_and_names_its_terms():
    embeddings, batch = with_logits(random_logits()), make_batch(6, LABELS)
    contrastive, label = ContrastiveLoss(), LabelLoss()
    terms = CombinedLoss(contrastive, label, 0.5, 2.0)(embeddings, batch)
    raw = contrastive(embeddings, batch), label(embeddings, batch)
    torch.testing.assert_close(terms["loss"], 0.5 * raw[0] + 2 * raw[1])
    torch.testing.assert_close(terms["contrastive_weighted"], 0.5 * raw[0])
    torch.testing.assert_close(terms["label"], raw[1])
    assert terms["contrastive_num_samples"] == 6
    assert terms["label_num_samples"] == 4


def test_a_weight_of_zero_keeps_the_graph():
    logits = random_logits().requires_grad_()
    terms = CombinedLoss(ContrastiveLoss(), LabelLoss(), 1.0, 0.0)(
        with_logits(logits), make_batch(6, LABELS)
    )
    terms["loss"].backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))
    assert float(terms["label"]) > 0


def test_a_head_without_a_label_loss_stays_in_the_graph():
    logits = random_logits().requires_grad_()
    terms = CombinedLoss(ContrastiveLoss())(with_logits(logits), make_batch(6))
    terms["loss"].backward()
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_labels_alone_need_no_captions():
    logits, batch = random_logits().requires_grad_(), make_batch(6, LABELS)
    scale = torch.tensor(10.0, requires_grad=True)
    image = unit_rows(6, 4, 0, torch.float32)
    embeddings = Embeddings(image, None, scale, None, logits)
    combined = CombinedLoss(ContrastiveLoss(), LabelLoss(), 0.0, 2.0, uncertainty=True)
    assert not combined.reads_captions
    terms = combined(embeddings, batch)
    assert {name.split("_")[0] for name in terms} == {"loss", "label"}
    torch.testing.assert_close(terms["loss"], 2 * LabelLoss()(embeddings, batch))
    terms["loss"].backward()
    learned = [scale, *combined.parameters()]
    assert all(parameter.grad is not None for parameter in learned)  # as DDP needs
    assert logits.grad.any()
    assert not scale.grad.any()


@pytest.mark.parametrize("weight", [0.1, LinearSchedule(0.0, 1.0, num_steps=5)])
def test_a_contrastive_loss_that_ever_counts_reads_captions(weight):
    combined = CombinedLoss(ContrastiveLoss(), LabelLoss(), weight, 1.0)
    assert combined.reads_captions
    without = replace(with_logits(random_logits()), text=None)
    with pytest.raises(ConfigError, match="expected those of captions, got none"):
        combined(without, make_batch(6, LABELS))


def test_an_encoder_is_checked_without_a_batch():
    combined = CombinedLoss(ContrastiveLoss(), LabelLoss(3), label_weight=1.0)
    combined.check(with_logits(random_logits()))
    with pytest.raises(ConfigError, match="no label_head"):
        combined.check(_headless())
    with pytest.raises(ConfigError, match=r"expects 3.*gives 5"):
        combined.check(with_logits(random_logits(classes=5)))
    with pytest.raises(ConfigError, match="logit_bias -10"):
        CombinedLoss(SigmoidLoss()).check(_headless())


def test_combined_refuses_what_cannot_work():
    with pytest.raises(ConfigError, match="label_weight: expected 0 without"):
        CombinedLoss(ContrastiveLoss(), label_weight=1.0)
    with pytest.raises(ConfigError, match=r"contrastive_weight.*-1"):
        CombinedLoss(SigmoidLoss(), contrastive_weight=-1.0)
