"""Inside torch.compile the losses give what they give outside."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from clipkit.losses import ContrastiveLoss, SigmoidLoss
from clipkit.types import Embeddings
from tests.losses.oracles import unit_rows


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
