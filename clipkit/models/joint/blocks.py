"""Attention over sequences with padding, and the blocks of transformers that fuse."""

from __future__ import annotations

from typing import final

import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clipkit.errors import ConfigError, check_at_least, check_range

_MLP_RATIO = 4
_MOST_BLOCKS = 128  # far more than any model has; a file must not ask for a billion


@final
class Attention(nn.Module):
    """Attention of one sequence to another, or to itself, without padding.

    Args:
        width: Components of a token.
        num_heads: Number of heads, which divides ``width``.

    Examples:
        >>> attention = Attention(width=8, num_heads=2)
        >>> attention(torch.zeros(3, 5, 8), torch.zeros(3, 7, 8), None).shape
        torch.Size([3, 5, 8])
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.output = nn.Linear(width, width)

    def forward(
        self,
        queries: Float[Tensor, "B queries width"],
        context: Float[Tensor, "B tokens width"],
        mask: Bool[Tensor, "B tokens"] | None,
    ) -> Float[Tensor, "B queries width"]:
        """Attend.

        Args:
            queries: Tokens that attend.
            context: Tokens that are attended to.
            mask: Which tokens of the context are not padding; None for all.
        """
        (query,) = self._heads(self.query(queries), 1)
        key, value = self._heads(self.key_value(context), 2)
        keys = None if mask is None else mask[:, None, None, :]
        attended = F.scaled_dot_product_attention(query, key, value, attn_mask=keys)
        output: Tensor = self.output(attended.transpose(1, 2).flatten(2))
        return output

    def _heads(self, projected: Tensor, parts: int) -> tuple[Tensor, ...]:
        width = projected.shape[-1] // (parts * self.num_heads)
        split = projected.view(*projected.shape[:-1], parts, self.num_heads, width)
        return split.permute(2, 0, 3, 1, 4).unbind(0)


@final
class SelfBlock(nn.Module):
    """Self-attention and a perceptron, each with a norm before it and a residual.

    Args:
        width: Components of a token.
        num_heads: Number of heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.mlp = perceptron(width)

    def forward(
        self, tokens: Float[Tensor, "B tokens width"], mask: Bool[Tensor, "B tokens"] | None
    ) -> Float[Tensor, "B tokens width"]:
        """Apply the block; see ``Attention.forward`` for the mask."""
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, mask)
        result: Tensor = tokens + self.mlp(tokens)
        return result


@final
class CrossBlock(nn.Module):
    """Self-attention, attention to another sequence, and a perceptron, as in ALBEF and BLIP.

    Li et al. 2021, arXiv:2107.07651, section 3.1; Li et al. 2022, arXiv:2201.12086, section 3.1.
    Here norms come before each part.

    Args:
        width: Components of a token.
        num_heads: Number of heads.
    """

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_attention = Attention(width, num_heads)
        self.mlp = perceptron(width)

    def forward(
        self,
        tokens: Float[Tensor, "B tokens width"],
        mask: Bool[Tensor, "B tokens"] | None,
        context: Float[Tensor, "B context width"],
        context_mask: Bool[Tensor, "B context"] | None,
    ) -> Float[Tensor, "B tokens width"]:
        """Apply the block; the context is read as it is."""
        normed = self.norm(tokens)
        tokens = tokens + self.attention(normed, normed, mask)
        tokens = tokens + self.cross_attention(self.cross_norm(tokens), context, context_mask)
        result: Tensor = tokens + self.mlp(tokens)
        return result


def perceptron(width: int) -> nn.Sequential:
    """Return a norm and two linear layers, the first four times as wide."""
    return nn.Sequential(
        nn.LayerNorm(width),
        nn.Linear(width, _MLP_RATIO * width),
        nn.GELU(),
        nn.Linear(_MLP_RATIO * width, width),
    )


def check_sizes(width: int, depth: int, num_heads: int) -> None:
    """Refuse sizes that no transformer has."""
    check_at_least("fusion.width", width, 1)
    check_range("fusion.depth", depth, 1, _MOST_BLOCKS)
    check_at_least("fusion.num_heads", num_heads, 1)
    if width % num_heads:
        raise ConfigError(
            f"fusion.num_heads: expected a divisor of width = {width}, got {num_heads}"
        )
