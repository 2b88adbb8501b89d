"""The projection of patches against torch's convolution."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from clipkit.models import OpenClipImageTower, TimmImageTower
from clipkit.models.towers.patches import PatchProjection, project_patches
from tests.helpers.tiny_models import RESNET, TIMM_VIT, VIT, config


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(8, 8, 32, 32), (4, 8, 21, 30)])
def test_values_and_gradients_are_those_of_the_convolution(
    bias: bool, shape: tuple[int, int, int, int]
) -> None:
    torch.manual_seed(0)
    patch, (height, width) = shape[:2], shape[2:]
    reference = nn.Conv2d(3, 10, patch, patch, bias=bias).double()
    projection = PatchProjection(reference)
    assert list(projection.state_dict()) == list(reference.state_dict())
    results = []
    for module in (reference, projection):
        images = torch.linspace(-1, 1, 2 * 3 * height * width).double().view(2, 3, height, width)
        images.requires_grad_()
        module.zero_grad()
        output = module(images.sin())
        output.square().sum().backward()
        results.append([output, images.grad, *(p.grad for p in module.parameters())])
    torch.testing.assert_close(results[1], results[0])


class Holder(nn.Module):
    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(**{"in_channels": 4, "out_channels": 4, **options})


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3, "stride": 2},
        {"kernel_size": 2, "stride": 2, "padding": 1},
        {"kernel_size": 2, "stride": 2, "dilation": 2},
        {"kernel_size": 2, "stride": 2, "groups": 2},
    ],
)
def test_other_convolutions_stay(options: dict[str, Any]) -> None:
    holder = Holder(**options)
    project_patches(holder, "conv1")
    assert type(holder.conv1) is nn.Conv2d
    project_patches(holder, "absent")
    project_patches(None, "proj")


def test_towers_with_patches_use_it() -> None:
    assert isinstance(OpenClipImageTower(config(VIT)).visual.conv1, PatchProjection)
    assert not isinstance(OpenClipImageTower(config(RESNET)).visual.conv1, PatchProjection)
    timm_of_open_clip = OpenClipImageTower(config(TIMM_VIT)).visual.trunk
    timm = TimmImageTower("test_vit", embedding_dim=8, image_size=64).trunk
    for trunk in (timm_of_open_clip, timm):
        assert isinstance(trunk.patch_embed.proj, PatchProjection)
