"""Convert an encoder of SigLIP's architecture into ``SiglipModel`` of transformers.

SigLIP 2 has the same architecture, with another vocabulary; its variants of variable image size
(NaFlex) are another class of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.export.weight_names import both, open_clip_blocks, timm_blocks, under
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.open_clip.towers import OpenClipImageTower, OpenClipTextTower

_ACTIVATIONS: Final = {"none": "gelu", "tanh": "gelu_pytorch_tanh"}
"""Name in transformers of torch's GELU, by its approximation."""


def is_siglip(encoder: DualEncoder) -> bool:
    """Return whether the image tower is a ViT of timm with attention pooling (``map``)."""
    image = encoder.image_tower
    trunk = getattr(image.visual, "trunk", None) if isinstance(image, OpenClipImageTower) else None
    return getattr(trunk, "attn_pool", None) is not None


def siglip_config(encoder: DualEncoder) -> dict[str, Any]:
    """Return the arguments of a ``SiglipConfig``.

    Raises:
        ConfigError: If SiglipModel cannot express a tower.
    """
    return {"vision_config": _vision_config(encoder), "text_config": _text_config(encoder)}


def siglip_state(encoder: DualEncoder) -> dict[str, Tensor]:
    """Return the weights under their names in ``SiglipModel``; without a bias, it is 0."""
    bias = encoder.logit_bias
    scale = encoder.logit_scale.detach().log().reshape(1)
    return {
        "logit_scale": scale,
        "logit_bias": torch.zeros_like(scale) if bias is None else bias.detach().reshape(1),
        **_vision_state(under(encoder.image_tower.state_dict(), "visual.trunk.")),
        **_text_state(under(encoder.text_tower.state_dict(), "text.")),
    }


def _vision_state(trunk: Mapping[str, Tensor]) -> dict[str, Tensor]:
    patches, head = "vision_model.embeddings", "vision_model.head"
    joint = {
        f"{head}.attention.in_proj_{part}": torch.cat(
            [trunk[f"attn_pool.q.{part}"], trunk[f"attn_pool.kv.{part}"]]
        )
        for part in ("weight", "bias")
    }
    state = {
        f"{patches}.position_embedding.weight": trunk["pos_embed"][0],
        **both(trunk, "patch_embed.proj", f"{patches}.patch_embedding"),
        **timm_blocks(trunk, "vision_model"),
        **both(trunk, "norm", "vision_model.post_layernorm"),
        f"{head}.probe": trunk["attn_pool.latent"],
        **joint,
        **both(trunk, "attn_pool.proj", f"{head}.attention.out_proj"),
        **both(trunk, "attn_pool.norm", f"{head}.layernorm"),
        **both(trunk, "attn_pool.mlp.fc1", f"{head}.mlp.fc1"),
        **both(trunk, "attn_pool.mlp.fc2", f"{head}.mlp.fc2"),
    }
    if _numel(state) != _numel(trunk):
        raise _not_expressed("image_tower", "place for some of its weights")
    return state


def _numel(state: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in state.values())


def _text_state(text: Mapping[str, Tensor]) -> dict[str, Tensor]:
    tokens, head = "text_model.embeddings", "text_model.head"
    if "text_projection.weight" in text:
        projection = both(text, "text_projection", head)
    else:  # a matrix without bias
        weight = text["text_projection"].T
        projection = {f"{head}.weight": weight, f"{head}.bias": weight.new_zeros(len(weight))}
    return {
        f"{tokens}.token_embedding.weight": text["token_embedding.weight"],
        f"{tokens}.position_embedding.weight": text["positional_embedding"],
        **open_clip_blocks(text, "text_model"),
        **both(text, "ln_final", "text_model.final_layer_norm"),
        **projection,
    }


def _vision_config(encoder: DualEncoder) -> dict[str, Any]:
    image: Any = encoder.image_tower
    trunk = image.visual.trunk
    _check_trunk(trunk, list(image.visual.head.parameters()))
    return {
        "hidden_size": trunk.embed_dim,
        "intermediate_size": trunk.blocks[0].mlp.fc1.out_features,
        "num_hidden_layers": len(trunk.blocks),
        "num_attention_heads": trunk.blocks[0].attn.num_heads,
        "image_size": image.image_size,
        "patch_size": trunk.patch_embed.patch_size[0],
        **_activation_and_eps("image_tower", trunk),
    }


def _check_trunk(trunk: Any, projection: list[Tensor]) -> None:
    """Refuse what ``SiglipVisionModel`` does not have."""
    first, pool = trunk.blocks[0], trunk.attn_pool
    absent = {
        "a class token or registers": trunk.num_prefix_tokens == 0,
        "a norm before the blocks": isinstance(trunk.norm_pre, nn.Identity),
        "patches without a bias": trunk.patch_embed.proj.bias is not None,
        "norms of queries and keys": isinstance(first.attn.q_norm, nn.Identity),
        "layer scale": isinstance(getattr(first, "ls1", nn.Identity()), nn.Identity),
        "a norm after the pooling": isinstance(trunk.fc_norm, nn.Identity),
        "several pooled tokens": getattr(pool, "latent_len", 1) == 1,
        "a projection after the pooling (timm_proj)": not projection,
        "another number of heads in the pooling": pool.num_heads == first.attn.num_heads,
        "patches that are not square": len(set(trunk.patch_embed.patch_size)) == 1,
    }
    for what, is_fine in absent.items():
        if not is_fine:
            raise _not_expressed("image_tower", what)


def _text_config(encoder: DualEncoder) -> dict[str, Any]:
    text: Any = encoder.text_tower
    if not isinstance(text, OpenClipTextTower):
        raise _not_expressed("text_tower", f"a {type(text).__name__}, only open_clip's transformer")
    cfg = text.config()["model"]["model_cfg"]["text_cfg"]
    for key, value, default in (
        ("hf_model_name", None, None),
        ("no_causal_mask", True, False),
        ("embed_cls", False, False),
        ("pool_type", "last", "argmax"),
        ("ls_init_value", None, None),
    ):
        if cfg.get(key, default) != value:
            raise _not_expressed("text_tower", f"{key} = {cfg.get(key, default)!r}, only {value!r}")
    transformer: Any = text.text.transformer
    return {
        "vocab_size": text.vocab_size,
        "hidden_size": transformer.width,
        "intermediate_size": transformer.resblocks[0].mlp.c_fc.out_features,
        "num_hidden_layers": len(transformer.resblocks),
        "num_attention_heads": transformer.resblocks[0].attn.num_heads,
        "max_position_embeddings": text.context_length,
        "projection_size": encoder.embedding_dim,
        "pad_token_id": text.pad_id,
        "bos_token_id": None,
        "eos_token_id": None,
        **_activation_and_eps("text_tower", text),
    }


def _activation_and_eps(tower: str, module: nn.Module) -> dict[str, Any]:
    """Return the activation and the epsilon that all parts of a tower share."""
    kinds, epsilons = set(), set()
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            epsilons.add(part.eps)
        elif isinstance(part, nn.GELU):
            kinds.add(_ACTIVATIONS[part.approximate])
        elif type(part).__name__ == "QuickGELU":
            kinds.add("quick_gelu")
        elif type(part).__name__ == "GELUTanh":
            kinds.add("gelu_pytorch_tanh")
    if len(kinds) != 1 or len(epsilons) != 1:
        raise _not_expressed(tower, "several or unknown activations or epsilons of norms")
    return {"hidden_act": kinds.pop(), "layer_norm_eps": epsilons.pop()}


def _not_expressed(part: str, what: str) -> ConfigError:
    return ConfigError(
        f"{part}: transformers' SiglipModel has no {what}; export with --format open_clip, onnx or "
        f"safetensors instead"
    )
