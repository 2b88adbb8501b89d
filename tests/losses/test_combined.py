"""The weighted sum of terms."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    CosineSchedule,
    GlobalContrastiveLoss,
    LabelLoss,
    LinearSchedule,
    SigmoidLoss,
)
from clipkit.types import IGNORE_LABEL, Embeddings
from tests.losses.oracles import make_batch, unit_rows

LABELS = torch.tensor([2, IGNORE_LABEL, 0, 2, 1, IGNORE_LABEL])


def with_logits(logits):
    one = unit_rows(len(logits), 4, 0, torch.float32)
    return Embeddings(one, one, torch.tensor(10.0), None, logits)


def random_logits(size=6, classes=3, seed=0):
    return torch.randn(size, classes, generator=torch.Generator().manual_seed(seed)) * 3


def _headless():
    one = unit_rows(6, 4, 0, torch.float32)
    return Embeddings(one, one, torch.tensor(10.0))


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
    with pytest.raises(ConfigError, match="expected text embeddings, got none"):
        combined(without, make_batch(6, LABELS))


def test_an_encoder_is_checked_without_a_batch():
    combined = CombinedLoss(ContrastiveLoss(), LabelLoss(3), label_weight=1.0)
    combined.check(with_logits(random_logits()))
    with pytest.raises(ConfigError, match="no label_head"):
        combined.check(_headless())
    with pytest.raises(ConfigError, match=r"expects 3.*has 5"):
        combined.check(with_logits(random_logits(classes=5)))
    with pytest.raises(ConfigError, match="logit_bias -10"):
        CombinedLoss(SigmoidLoss()).check(_headless())


def test_combined_refuses_what_cannot_work():
    with pytest.raises(ConfigError, match="label_weight: expected 0 without"):
        CombinedLoss(ContrastiveLoss(), label_weight=1.0)
    with pytest.raises(ConfigError, match=r"contrastive_weight.*-1"):
        CombinedLoss(SigmoidLoss(), contrastive_weight=-1.0)


def test_a_compiled_objective_counts_its_steps():
    """Schedules, labels and the memory of the global loss, over several steps of one graph."""
    image, text = (unit_rows(8, 4, seed, torch.float32) for seed in (0, 1))
    logits = torch.randn(8, 3, generator=torch.Generator().manual_seed(0))
    batch = make_batch(8, torch.tensor([0, 1, 2, -100] * 2), sample_ids=torch.arange(8))

    def losses(wrap):
        pairs = GlobalContrastiveLoss(8, LinearSchedule(1.0, 0.2, 4), tile_size=3)
        loss = CombinedLoss(pairs, LabelLoss(), CosineSchedule(1.0, 0.0, 4), 0.5)

        def step(image, text):
            return loss(Embeddings(2 * image / 2, text, torch.tensor(9.0), None, logits), batch)

        step = wrap(step)
        return [float(step(image.roll(k, 0), text)["loss"]) for k in range(4)]

    got = losses(lambda step: torch.compile(step, backend="eager"))
    expected = losses(lambda step: step)
    assert len(set(expected)) == 4
    assert got == pytest.approx(expected, rel=1e-6)
