"""Rename weights of transformer blocks for the models of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from torch import Tensor

OPEN_CLIP_BLOCK: Final = (
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("attn.out_proj", "self_attn.out_proj"),
    ("mlp.c_fc", "mlp.fc1"),
    ("mlp.c_proj", "mlp.fc2"),
)
"""Parts of a block of open_clip, and of a block of transformers."""
TIMM_BLOCK: Final = (
    ("norm1", "layer_norm1"),
    ("norm2", "layer_norm2"),
    ("attn.proj", "self_attn.out_proj"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
)
"""Parts of a block of timm, and of a block of transformers."""


def under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the weights whose names begin with a prefix, without it."""
    return {k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)}


def both(state: Mapping[str, Tensor], name: str, new_name: str) -> dict[str, Tensor]:
    """Return weight and bias of a module under its new name."""
    return {f"{new_name}.{part}": state[f"{name}.{part}"] for part in ("weight", "bias")}


def open_clip_blocks(state: Mapping[str, Tensor], model: str) -> dict[str, Tensor]:
    """Return every residual block of a transformer of open_clip."""
    return _blocks(state, "transformer.resblocks", "attn.in_proj_", OPEN_CLIP_BLOCK, model)


def timm_blocks(state: Mapping[str, Tensor], model: str) -> dict[str, Tensor]:
    """Return every residual block of a vision transformer of timm."""
    return _blocks(state, "blocks", "attn.qkv.", TIMM_BLOCK, model)


def _blocks(
    state: Mapping[str, Tensor],
    blocks: str,
    joint: str,
    parts: tuple[tuple[str, str], ...],
    model: str,
) -> dict[str, Tensor]:
    """Rename blocks; the joint matrix of queries, keys and values is split."""
    renamed: dict[str, Tensor] = {}
    names = under(state, f"{blocks}.")
    for number in {name.split(".")[0] for name in names}:
        block, new = under(names, f"{number}."), f"{model}.encoder.layers.{number}"
        for part, new_part in parts:
            renamed |= both(block, part, f"{new}.{new_part}")
        for kind in ("weight", "bias"):
            thirds = block[f"{joint}{kind}"].chunk(3)
            for letter, third in zip("qkv", thirds, strict=True):
                renamed[f"{new}.self_attn.{letter}_proj.{kind}"] = third
    return renamed
