"""Residual blocks of dilated convolutions over time."""

from __future__ import annotations

from typing import final

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

_AXES = (1, 2)


@final
class DilatedConvolution(nn.Module):
    """A convolution over time that keeps the number of frames, with weight normalisation.

    Length and direction of each filter are separate parameters (Salimans and Kingma 2016,
    arXiv:1602.07868).

    Args:
        in_channels: Number of features of a frame.
        out_channels: Number of filters.
        kernel_size: Number of frames that a filter combines.
        dilation: Distance of these frames.
        causal: Whether a frame sees only itself and earlier ones; otherwise as many later ones.

    Examples:
        >>> DilatedConvolution(3, 8, kernel_size=3, dilation=4)(torch.zeros(2, 3, 5)).shape
        torch.Size([2, 8, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int = 1,
        causal: bool = False,
    ) -> None:
        super().__init__()
        start = nn.Conv1d(in_channels, out_channels, kernel_size)
        self.direction = nn.Parameter(start.weight.detach())
        self.length = nn.Parameter(_length(start.weight.detach()).flatten())
        self.bias = nn.Parameter(start.bias.detach() if start.bias is not None else torch.zeros(0))
        self.dilation = dilation
        reach = (kernel_size - 1) * dilation
        self.padding = (reach, 0) if causal else (reach // 2, reach - reach // 2)

    def forward(
        self, values: Float[Tensor, "B features frames"]
    ) -> Float[Tensor, "B filters frames"]:
        """Convolve; frames outside are zero."""
        weight = self.direction * (self.length[:, None, None] / _length(self.direction))
        padded = F.pad(values, self.padding)
        return F.conv1d(padded, weight, self.bias, dilation=self.dilation)


@final
class TemporalBlock(nn.Module):
    """Two dilated convolutions with ReLU and dropout of complete channels, and a residual.

    The block of Bai et al. 2018, arXiv:1803.01271, section 3.3.

    Args:
        in_channels: Number of features of a frame.
        out_channels: Number of filters of both convolutions.
        kernel_size: Number of frames that a filter combines.
        dilation: Distance of these frames.
        causal: Whether a frame sees only itself and earlier ones.
        dropout: Probability of a channel to be zero in training.

    Examples:
        >>> TemporalBlock(3, 8, kernel_size=3, dilation=2)(torch.zeros(2, 3, 5)).shape
        torch.Size([2, 8, 5])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        dilation: int,
        causal: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = (kernel_size, dilation, causal)
        self.first = DilatedConvolution(in_channels, out_channels, *sizes)
        self.second = DilatedConvolution(out_channels, out_channels, *sizes)
        self.dropout = nn.Dropout1d(dropout)
        same = in_channels == out_channels
        self.residual = nn.Identity() if same else nn.Conv1d(in_channels, out_channels, 1)

    def forward(
        self, values: Float[Tensor, "B features frames"]
    ) -> Float[Tensor, "B filters frames"]:
        """Apply the block."""
        states = self.dropout(F.relu(self.first(values)))
        states = self.dropout(F.relu(self.second(states)))
        return F.relu(states + self.residual(values))


def _length(weight: Float[Tensor, "filters features width"]) -> Float[Tensor, "filters 1 1"]:
    length: Tensor = torch.linalg.vector_norm(weight, dim=_AXES, keepdim=True)
    return length
