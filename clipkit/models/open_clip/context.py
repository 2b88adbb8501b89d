"""A longer context for the texts of an open_clip model, with its weights."""

from __future__ import annotations

from typing import Any, Final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError

_KEPT: Final = 20
"""Positions that stay: CLIP was trained on few longer captions (Zhang et al. 2024)."""


def stretch_positions(
    positions: Float[Tensor, "positions width"], context_length: int, num_kept: int = _KEPT
) -> Float[Tensor, "stretched width"]:
    """Interpolate positions to a longer context, except for the first ones.

    Short captions keep their embeddings (Long-CLIP, Zhang et al. 2024, arXiv:2403.15378,
    section 3.2, there from 77 to 248).

    Args:
        positions: Trained embeddings of positions.
        context_length: Number of positions afterwards.
        num_kept: Number of first positions that stay.

    Returns:
        The positions; the last one is that of before.

    Examples:
        >>> stretch_positions(torch.arange(5.0)[:, None], 8, num_kept=2)[:, 0]
        tensor([0.0000, 1.0000, 2.0000, 2.4000, 2.8000, 3.2000, 3.6000, 4.0000])
    """
    rows = positions[num_kept:].float().T[None]
    stretched = nn.functional.interpolate(
        rows, context_length - num_kept, mode="linear", align_corners=True
    )
    return torch.cat([positions[:num_kept], stretched[0].T.to(positions.dtype)])


def stretch_context(text: Any, context_length: int) -> None:
    """Give a text transformer of open_clip a longer context, in place.

    Raises:
        ConfigError: If this is another kind of text tower, or the context would be shorter.
    """
    from open_clip.transformer import TextTransformer

    if not isinstance(text, TextTransformer) or text.cls_emb is not None:
        raise ConfigError(
            "context_length: only open_clip's own text transformers without a class token can be "
            f"stretched, got {type(text).__name__}"
        )
    length = len(text.positional_embedding)
    if context_length < length or length < _KEPT + 2:
        raise ConfigError(
            f"context_length: expected at least the model's {length}, of at least {_KEPT + 2}, got "
            f"{context_length}"
        )
    positions = stretch_positions(text.positional_embedding.data, context_length)
    text.positional_embedding = nn.Parameter(positions)
    text.context_length = text.num_pos = context_length
    if text.attn_mask is not None:
        text.attn_mask = text.build_causal_mask().to(positions.device)
