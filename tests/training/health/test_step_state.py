"""What a bad step leaves as it was: buffers in place, and the memory of losses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clipkit.losses import GlobalContrastiveLoss
from clipkit.training.health.step_state import StepState
from clipkit.types import Embeddings
from tests.helpers.oracles import make_batch, unit_rows

BAD, GOOD = torch.tensor(1.0), torch.tensor(0.0)


class Model(nn.Module):
    """Buffers of every kind beside a loss with a memory."""

    replaced: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(2)
        self.loss = GlobalContrastiveLoss(8)
        self.register_buffer("replaced", torch.zeros(3))
        self.register_buffer("constant", torch.zeros(2), persistent=False)

    def step(self, value: float) -> None:
        self.norm(torch.randn(4, 2) * value)
        self.replaced = self.replaced + value
        image, text = unit_rows(4, 6, 0), unit_rows(4, 6, 1)
        batch = make_batch(4, sample_ids=torch.arange(4))
        self.loss(Embeddings(image * value, text, torch.tensor(2.0).double()), batch)


def memory(model: Model) -> dict[str, torch.Tensor]:
    state = {name: value.clone() for name, value in model.named_buffers()}
    return {**state, "averages": model.loss.log_averages.clone()}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 50.0])
@pytest.mark.parametrize("passes", [1, 3], ids=["one-pass", "accumulated"])
def test_a_bad_step_changes_nothing(value, passes):
    model = Model().train()
    state = StepState(model)
    for number in range(3):
        state.keep()
        model.step(1.0 + number)
        state.restore(GOOD)
    before = memory(model)
    assert not before["norm.running_var"].equal(torch.ones(2))
    assert before["averages"].isfinite().sum() == 8
    for _ in range(2):  # two bad steps in a row
        state.keep()
        for _ in range(passes):
            model.step(value)
        assert any(not torch.equal(memory(model)[name], before[name]) for name in before)
        state.restore(BAD)
        for name, expected in before.items():
            assert torch.equal(memory(model)[name], expected), name
    assert model.loss.num_steps == 3 + 2 * passes  # its schedule counts them


def test_a_good_step_keeps_what_it_changed():
    model, plain = Model().train(), Model().train()
    state = StepState(model)
    for number in range(3):
        for trained in (model, plain):
            torch.manual_seed(number)
            if trained is model:
                state.keep()
            trained.step(1.0)
        state.restore(GOOD)
    for name, expected in memory(plain).items():
        assert torch.equal(memory(model)[name], expected), name
