"""Inside torch.compile the losses give what they give outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clipkit.losses import (
    CombinedLoss,
    ContrastiveLoss,
    CosineSchedule,
    GlobalContrastiveLoss,
    LabelLoss,
    LinearSchedule,
    SigmoidLoss,
)
from clipkit.types import Embeddings
from tests.losses.oracles import make_batch, unit_rows


class Towers(nn.Module):
    def __init__(self, bias):
        super().__init__()
        torch.manual_seed(0)
        self.image, self.text = nn.Linear(6, 5), nn.Linear(6, 5)
        self.log_scale = nn.Parameter(torch.tensor(2.5))
        self.bias = nn.Parameter(torch.tensor(-5.0)) if bias else None

    def forward(self, images, texts):
        image = nn.functional.normalize(self.image(images), dim=1)
        text = nn.functional.normalize(self.text(texts), dim=1)
        return Embeddings(image, text, self.log_scale.exp(), self.bias)


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


@pytest.mark.slow
@pytest.mark.parametrize("loss", [ContrastiveLoss(4), SigmoidLoss(4)], ids=type)
def test_compiled_equals_eager(loss):
    towers = Towers(bias=isinstance(loss, SigmoidLoss))
    images, texts = (unit_rows(11, 6, seed, torch.float32) for seed in (0, 1))

    def step(images, texts):
        return 2 * loss(towers(images, texts))

    def gradients(function):
        towers.zero_grad()
        value = function(images, texts)
        value.backward()
        return value.detach(), [parameter.grad.clone() for parameter in towers.parameters()]

    expected = gradients(step)
    got = gradients(torch.compile(step, backend="aot_eager"))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
