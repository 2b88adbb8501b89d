"""Attention of open_clip's blocks without the copies of torch's module."""

from __future__ import annotations

from typing import Any, final

import torch.nn.functional as F
from jaxtyping import Float
from open_clip.transformer import ResidualAttentionBlock
from torch import Tensor, nn


@final
class FusedAttention(nn.Module):
    """The weights of a ``torch.nn.MultiheadAttention`` around one fused attention kernel.

    torch's module copies queries, keys and values to another layout, forward and backward, and with
    a mask it cannot take the kernel that skips masked tiles. Parameters keep their names and values
    are equal up to rounding.

    Args:
        attention: Module whose weights are used; one width of queries, keys and values, no dropout.
        is_causal: Whether a token attends only to itself and to earlier ones.

    Examples:
        >>> attention = FusedAttention(nn.MultiheadAttention(16, 2, batch_first=True))
        >>> x = torch.zeros(4, 7, 16)
        >>> attention(x, x, x)[0].shape
        torch.Size([4, 7, 16])
    """

    def __init__(self, attention: nn.MultiheadAttention, is_causal: bool = False) -> None:
        super().__init__()
        self.in_proj_weight = attention.in_proj_weight
        self.in_proj_bias = attention.in_proj_bias
        self.out_proj = attention.out_proj
        self.num_heads = attention.num_heads
        self.is_causal = is_causal

    def forward(
        self,
        query: Float[Tensor, "B queries width"],
        key: Float[Tensor, "B S width"],
        value: Float[Tensor, "B S width"],
        need_weights: bool = False,
        attn_mask: Tensor | None = None,
    ) -> tuple[Float[Tensor, "B queries width"], None]:
        """Attend as ``torch.nn.MultiheadAttention``, for the arguments of open_clip's blocks.

        ``key`` and ``value`` are one tensor. ``attn_mask`` is not read: ``is_causal`` replaces it.
        """
        del attn_mask
        assert key is value, "open_clip's blocks read keys and values from one tensor"
        assert not need_weights, "the fused kernel has no weights to return"
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if query is key:
            q, k, v = self._heads(F.linear(query, weight, bias), 3)
        else:
            width = query.shape[-1]
            (q,) = self._heads(F.linear(query, weight[:width], bias[:width]), 1)
            k, v = self._heads(F.linear(key, weight[width:], bias[width:]), 2)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        return self.out_proj(attended.transpose(1, 2).flatten(2)), None

    def _heads(
        self, projected: Float[Tensor, "B S width"], parts: int
    ) -> tuple[Float[Tensor, "B heads S head_dim"], ...]:
        width = projected.shape[-1] // (parts * self.num_heads)  # -1 is no size of an empty batch
        split = projected.view(*projected.shape[:-1], parts, self.num_heads, width)
        heads: tuple[Tensor, ...] = split.permute(2, 0, 3, 1, 4).unbind(0)
        return heads


def fuse_attention(clip: Any) -> None:
    """Replace the attention of both towers' blocks where its mask is the causal one or none."""
    text = getattr(clip.text, "transformer", None)
    if getattr(clip.text, "cls_emb", True) is None and not clip.text.use_pad_mask:
        _fuse_blocks(text, is_causal=clip.text.attn_mask is not None)
    _fuse_blocks(getattr(clip.visual, "transformer", None), is_causal=False)


def _fuse_blocks(transformer: Any, is_causal: bool) -> None:
    for block in getattr(transformer, "resblocks", ()):
        attention = getattr(block, "attn", None)
        if type(block) is ResidualAttentionBlock and isinstance(attention, nn.MultiheadAttention):
            block.attn = FusedAttention(attention, is_causal)
