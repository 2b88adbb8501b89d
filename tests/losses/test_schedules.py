"""Weights that change with the step, and learned ones."""

from __future__ import annotations

import math

import pytest
import torch

from clipkit.errors import ConfigError
from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    CosineSchedule,
    LabelLoss,
    LinearSchedule,
    StepSchedule,
)
from clipkit.types import Embeddings
from tests.losses.oracles import make_batch, unit_rows


def step_input(seed=0, labels=None):
    image, text = (unit_rows(6, 4, seed + k, torch.float32) for k in (0, 1))
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(seed))
    return Embeddings(image, text, torch.tensor(10.0), None, logits), make_batch(6, labels)


LABELS = torch.tensor([0, 1, 2, 0, -100, 1])


def test_shapes_of_the_schedules():
    linear = LinearSchedule(1.0, 3.0, num_steps=10, first_step=5)
    assert [linear(step) for step in (0, 5, 10, 15, 99)] == [1, 1, 2, 3, 3]
    cosine = CosineSchedule(1.0, 3.0, num_steps=10)
    assert cosine(0) == 1
    assert cosine(10) == cosine(50) == 3
    assert cosine(2) == pytest.approx(2 - math.cos(0.2 * math.pi))
    steps = StepSchedule([1.0, 0.5, 0.0], [3, 7])
    assert [steps(step) for step in (0, 2, 3, 6, 7, 100)] == [1, 1, 0.5, 0.5, 0, 0]


def test_bad_schedules_are_refused():
    with pytest.raises(ConfigError, match="num_steps"):
        LinearSchedule(0.0, 1.0, 0)
    with pytest.raises(ConfigError, match="num_steps"):
        CosineSchedule(0.0, 1.0, -1)
    for values, boundaries in (([1.0], [3]), ([1.0, 2.0, 3.0], [5, 5])):
        with pytest.raises(ConfigError, match="boundary"):
            StepSchedule(values, boundaries)


def run(loss, num_steps):
    embeddings, batch = step_input(labels=LABELS)
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
    embeddings, batch = step_input(labels=LABELS)
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
    loss(*step_input())["loss"].backward()
    assert float(loss.log_variances["label"].grad) == 0
    assert float(loss.log_variances["contrastive"].grad) != 0
