"""Fusion of series in time by temporal convolutions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from torch import Tensor, nn

from clipkit.errors import ConfigError, check_at_least, check_range
from clipkit.models.joint.fusion import Fusion, checked_names
from clipkit.models.towers.signals.temporal_blocks import TemporalBlock
from clipkit.token_sequences import Fused, TokenSequence

_MOST_BLOCKS = 16


@final
class TcnFusion(Fusion):
    """Dilated convolutions over the sum of series with the same frames, pooled by their mean.

    The sequences are aligned: frame ``t`` of each is the same moment. Block ``i`` combines frames
    at a distance of 2^i (Bai et al. 2018, arXiv:1803.01271).

    Args:
        width: Components of a token, and number of filters of each convolution.
        num_blocks: Number of residual blocks, of two convolutions each.
        kernel_size: Number of frames that a filter combines; odd, unless ``causal``.
        causal: Whether a frame sees only itself and earlier frames.
        modalities: Modalities whose series are read; each tower returns one token per frame, such
            as ``TcnTower``.

    Raises:
        ConfigError: If an option is out of range.

    Examples:
        >>> fusion = TcnFusion(width=16, num_blocks=2, modalities=("sound", "motion"))
        >>> series = TokenSequence(torch.zeros(3, 20, 16))
        >>> fusion({"sound": series, "motion": series}).pooled.shape
        torch.Size([3, 16])
    """

    reads_padding = False

    def __init__(
        self,
        width: int,
        num_blocks: int = 4,
        kernel_size: int = 3,
        causal: bool = False,
        modalities: Sequence[str] = ("sound", "series"),
    ) -> None:
        check_at_least("fusion.width", width, 1)
        check_range("fusion.num_blocks", num_blocks, 1, _MOST_BLOCKS)
        check_at_least("fusion.kernel_size", kernel_size, 1)
        if not causal and kernel_size % 2 == 0:
            raise ConfigError(
                f"fusion.kernel_size: expected an odd number, which has a centre, got "
                f"{kernel_size}; set causal: true for an even one"
            )
        super().__init__()
        self.names = checked_names(modalities)
        self.width = width
        self.blocks = nn.Sequential(
            *(
                TemporalBlock(width, width, kernel_size, 2**number, causal)
                for number in range(num_blocks)
            )
        )
        self.norm = nn.LayerNorm(width)
        self._config = {"width": width, "num_blocks": num_blocks, "kernel_size": kernel_size}
        self._causal = causal

    def forward(self, tokens: Mapping[str, TokenSequence]) -> Fused:
        """Fuse series; one fused series is returned, under the name of each modality.

        Raises:
            ConfigError: If the series have other numbers of frames, or padding.
        """
        parts = [tokens[name] for name in self.names]
        lengths = [part.values.shape[1] for part in parts]
        if len(set(lengths)) > 1 or any(part.mask is not None for part in parts):
            shown = ", ".join(
                f"{name}: {length}{'' if part.mask is None else ' with padding'}"
                for name, length, part in zip(self.names, lengths, parts, strict=True)
            )
            raise ConfigError(
                f"TcnFusion: expected series with the same number of frames and no padding, got "
                f"{shown}; use CrossAttentionFusion or MergedFusion for others"
            )
        summed = torch.stack([part.values for part in parts]).sum(0)
        states: Tensor = self.norm(self.blocks(summed.transpose(1, 2)).transpose(1, 2))
        return Fused(dict.fromkeys(self.names, states), states.mean(dim=1))

    def config(self) -> dict[str, Any]:
        """See ``Fusion.config``."""
        return {**self._config, "causal": self._causal, "modalities": list(self.names)}
