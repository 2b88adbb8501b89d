"""The projection of a vision transformer's patches, as a matrix product."""

from __future__ import annotations

from typing import Any, final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


@final
class PatchProjection(nn.Conv2d):
    """A convolution whose stride is its kernel's size, computed as one matrix product.

    cuDNN has no fast kernel for such convolutions of three channels: on an H100 they take 12 % of a
    compiled ViT-B/32 step.

    Args:
        convolution: Convolution whose weights are used.

    Examples:
        >>> projection = PatchProjection(nn.Conv2d(3, 16, kernel_size=8, stride=8))
        >>> projection(torch.zeros(2, 3, 32, 24)).shape
        torch.Size([2, 16, 4, 3])
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        size = (convolution.kernel_size[0], convolution.kernel_size[1])
        super().__init__(
            convolution.in_channels, convolution.out_channels, size, size, device="meta"
        )
        self.weight, self.bias = convolution.weight, convolution.bias

    def forward(self, input: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B width rows columns"]:
        """Project each patch; pixels beyond the last complete patch are left out, as by torch."""
        height, width = self.kernel_size
        rows, columns = input.shape[2] // height, input.shape[3] // width
        covered = input[:, :, : rows * height, : columns * width]
        split = covered.reshape(-1, self.in_channels, rows, height, columns, width)
        patches = split.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        projected = F.linear(patches, self.weight.flatten(1), self.bias)
        return projected.transpose(1, 2).view(-1, self.out_channels, rows, columns)


def project_patches(module: Any, name: str) -> None:
    """Replace the convolution ``module.name``, if it is one over patches that do not overlap."""
    convolution = getattr(module, name, None)
    if (
        type(convolution) is nn.Conv2d
        and convolution.kernel_size == convolution.stride
        and convolution.padding == (0, 0)
        and convolution.dilation == (1, 1)
        and convolution.groups == 1
    ):
        setattr(module, name, PatchProjection(convolution))
