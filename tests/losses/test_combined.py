"""The weighted sum of terms."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    CosineSchedule,
    GlobalContrastiveLoss,
    LabelAwareContrastiveLoss,
    LabelLoss,
    LinearSchedule,
    SigmoidLoss,
    WeightedTerm,
)
from clipkit.types import IGNORE_LABEL, Embeddings
from clipkit.when import Progress
from tests.helpers.oracles import make_batch, unit_rows

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


@pytest.mark.parametrize("weight", [0.1, LinearSchedule(0.0, 1.0, length=5)])
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


def test_any_number_of_named_terms():
    """A further term needs no place of its own; the sum and the state have its name."""
    embeddings, batch = with_logits(random_logits()), make_batch(6, LABELS)
    terms = {
        "sorted": WeightedTerm(LabelAwareContrastiveLoss(), 0.25),
        "balanced": WeightedTerm(LabelLoss(class_weights=[1.0, 2.0, 3.0]), LinearSchedule(1, 3, 2)),
    }
    loss = CombinedLoss(ContrastiveLoss(), terms=terms, uncertainty=True)
    values = loss(embeddings, batch)
    parts = [ContrastiveLoss(), *(term.loss for term in terms.values())]
    raw = [part(embeddings, batch) for part in parts]
    torch.testing.assert_close(values["loss"], raw[0] + 0.25 * raw[1] + raw[2])
    torch.testing.assert_close(loss(embeddings, batch)["balanced_weighted"], 2 * raw[2])
    assert loss.state_dict().keys() >= {"balanced.class_weights", "log_variances.sorted"}
    alone = CombinedLoss(terms={"pairs": WeightedTerm(ContrastiveLoss())})
    assert alone(embeddings, batch)["pairs"] == raw[0]


@pytest.mark.parametrize("name", ["loss", "contrastive", "forward", "two words", "num_steps"])
def test_names_of_terms_are_free(name):
    with pytest.raises(ConfigError, match=f"terms: .*{name}"):
        CombinedLoss(ContrastiveLoss(), terms={name: WeightedTerm(LabelLoss())})


def test_a_sum_needs_a_term():
    with pytest.raises(ConfigError, match="at least one term"):
        CombinedLoss()
    with pytest.raises(ConfigError, match=r"terms.other.weight: expected 0 or more, got -1"):
        CombinedLoss(terms={"other": WeightedTerm(ContrastiveLoss(), -1.0)})


def test_weights_follow_the_progress_of_a_run():
    """Fractions and samples need it; in a loop of one's own steps are counted."""
    embeddings, batch = with_logits(random_logits()), make_batch(6, LABELS)
    loss = CombinedLoss(ContrastiveLoss(), LabelLoss(), 1.0, LinearSchedule(0.0, 1.0, 0.5))
    with pytest.raises(ConfigError, match="length of the run is unknown"):
        loss(embeddings, batch)
    for step, expected in ((0, 0.0), (2, 0.4), (8, 1.0)):
        loss.progress = Progress(step, num_steps=10)
        values = loss(embeddings, batch)
        torch.testing.assert_close(values["label_weighted"], expected * values["label"])


def run(loss, num_steps):
    embeddings, batch = with_logits(random_logits()), make_batch(6, LABELS)
    return [float(loss(embeddings, batch)["loss"].detach()) for _ in range(num_steps)]


def make_loss():
    return CombinedLoss(
        ContrastiveLoss(), LabelLoss(), CosineSchedule(1.0, 0.0, 8), LinearSchedule(0.0, 2.0, 8)
    )


def test_a_resumed_schedule_goes_on_where_it_was():
    whole = run(make_loss(), 9)
    assert len(set(whole)) > 8
    first, second = make_loss(), make_loss()
    run(first, 4)
    second.load_state_dict(first.state_dict())
    assert run(second, 5) == whole[4:]


def test_validation_does_not_move_the_schedule():
    loss = make_loss()
    run(loss, 3)
    with torch.no_grad():
        run(loss, 2)
    loss.eval()
    assert len(set(run(loss, 3))) == 1
    assert loss.num_steps == 3


def test_uncertainty_is_kendalls_formula_and_learns():
    loss = CombinedLoss(ContrastiveLoss(), LabelLoss(), 1.0, 0.5, uncertainty=True)
    embeddings, batch = with_logits(random_logits()), make_batch(6, LABELS)
    loss.log_variances["contrastive"].data.fill_(0.4)
    loss.log_variances["label"].data.fill_(-0.7)
    terms = loss(embeddings, batch)
    contrastive, label = float(terms["contrastive"]), float(terms["label"])
    expected = math.exp(-0.4) * contrastive + 0.2 + 0.5 * (math.exp(0.7) * label - 0.35)
    assert float(terms["loss"].detach()) == pytest.approx(expected, rel=1e-6)
    terms["loss"].backward()
    gradient = loss.log_variances["label"].grad
    assert float(gradient) == pytest.approx(0.5 * (0.5 - math.exp(0.7) * label), rel=1e-5)


def test_uncertainty_rests_in_a_step_without_samples():
    loss = CombinedLoss(ContrastiveLoss(), LabelLoss(), 1.0, 0.5, uncertainty=True)
    loss(with_logits(random_logits()), make_batch(6))["loss"].backward()
    assert float(loss.log_variances["label"].grad) == 0
    assert float(loss.log_variances["contrastive"].grad) != 0
