"""Convert an encoder into ``CLIPModel`` or ``SiglipModel`` of transformers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.export.siglip import is_siglip, siglip_config, siglip_state
from clipkit.export.weight_names import both, open_clip_blocks, under
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.files.state_dicts import load_exactly
from clipkit.models.open_clip.towers import OpenClipImageTower, OpenClipTextTower

_ARGMAX_POOLING: Final = 2
"""As ``eos_token_id``: CLIPModel pools at the greatest id, as open_clip does."""

_CLIP_VOCABULARY: Final = 49408
_CLIP_START: Final = 49406
_CLIP_END: Final = 49407

_ANY_TOWER: Final[Mapping[str, tuple[Any, ...]]] = {
    "ls_init_value": (None,),
    "act_kwargs": (None,),
    "norm_kwargs": (None,),
    "block_type": (None, "default"),
    **dict.fromkeys(("qk_norm", "scaled_cosine_attn", "scale_heads"), (False,)),
    **dict.fromkeys(("scale_attn_inner", "scale_attn", "scale_fc"), (False,)),
}
_VISION: Final[Mapping[str, tuple[Any, ...]]] = {
    **_ANY_TOWER,
    "timm_model_name": (None,),
    "attentional_pool": (False,),
    "no_ln_pre": (False,),
    "pool_type": ("tok",),
}
_TEXT: Final[Mapping[str, tuple[Any, ...]]] = {
    **_ANY_TOWER,
    "hf_model_name": (None,),
    "embed_cls": (False,),
    "no_causal_mask": (False,),
    "pool_type": ("argmax", "eos"),
    "proj_bias": (False,),
    "proj_type": ("linear",),
}


def to_transformers(encoder: DualEncoder) -> Any:
    """Convert an encoder into a model of transformers in evaluation mode, without label head.

    Args:
        encoder: For ``CLIPModel``, a ViT with a class token and a causal text transformer of
            open_clip. For ``SiglipModel``, a ViT of timm with attention pooling and a text
            transformer without a causal mask: SigLIP and SigLIP 2 of one image size.

    Returns:
        A ``CLIPModel`` or ``SiglipModel``; its normalised embeddings are those of the encoder.

    Raises:
        ConfigError: If neither of them can express the encoder.

    Examples:
        >>> model = to_transformers(encoder)
        >>> model.config.projection_dim == encoder.embedding_dim
        True
    """
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    if is_siglip(encoder):
        siglip = SiglipModel(SiglipConfig(**siglip_config(encoder))).eval()
        load_exactly(siglip, siglip_state(encoder), "export")
        return siglip
    model = CLIPModel(CLIPConfig(**transformers_config(encoder))).eval()
    load_exactly(model, transformers_state(encoder), "export")
    return model


def transformers_config(encoder: DualEncoder) -> dict[str, Any]:
    """Return the arguments of a ``CLIPConfig``."""
    _check_bias(encoder)
    image_cfg, text_cfg = _configs(encoder)
    _check_tower("image_tower", image_cfg["vision_cfg"], _VISION)
    _check_tower("text_tower", text_cfg["text_cfg"], _TEXT)
    dim = encoder.embedding_dim
    return {
        "projection_dim": dim,
        "logit_scale_init_value": float(encoder.logit_scale.detach().log()),
        "vision_config": {**_vision_config(encoder, image_cfg), "projection_dim": dim},
        "text_config": {**_text_config(encoder, text_cfg), "projection_dim": dim},
    }


def transformers_state(encoder: DualEncoder) -> dict[str, Tensor]:
    """Return the weights under their names in ``CLIPModel``."""
    visual = under(encoder.image_tower.state_dict(), "visual.")
    text = under(encoder.text_tower.state_dict(), "text.")
    patches = "vision_model.embeddings"
    return {
        "logit_scale": encoder.logit_scale.detach().log(),
        "visual_projection.weight": visual["proj"].T,
        "text_projection.weight": text["text_projection"].T,
        f"{patches}.class_embedding": visual["class_embedding"],
        f"{patches}.position_embedding.weight": visual["positional_embedding"],
        f"{patches}.patch_embedding.weight": visual["conv1.weight"],
        **both(visual, "ln_pre", "vision_model.pre_layrnorm"),
        **both(visual, "ln_post", "vision_model.post_layernorm"),
        **open_clip_blocks(visual, "vision_model"),
        "text_model.embeddings.token_embedding.weight": text["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": text["positional_embedding"],
        **both(text, "ln_final", "text_model.final_layer_norm"),
        **open_clip_blocks(text, "text_model"),
    }


def _configs(encoder: DualEncoder) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return open_clip's configurations of both towers."""
    image, text = encoder.image_tower, encoder.text_tower
    if not isinstance(image, OpenClipImageTower):
        raise _not_expressed("image_tower", f"{type(image).__name__}, only a ViT of open_clip")
    if not isinstance(text, OpenClipTextTower):
        kind = "only a causal transformer of open_clip"
        raise _not_expressed("text_tower", f"{type(text).__name__}, {kind}")
    return image.config()["model"]["model_cfg"], text.config()["model"]["model_cfg"]


def _vision_config(encoder: DualEncoder, cfg: Mapping[str, Any]) -> dict[str, Any]:
    vision = cfg["vision_cfg"]
    width = vision.get("width", 768)
    return {
        "hidden_size": width,
        "intermediate_size": int(width * vision.get("mlp_ratio", 4.0)),
        "num_hidden_layers": vision.get("layers", 12),
        "num_attention_heads": width // vision.get("head_width", 64),
        "image_size": encoder.image_tower.image_size,
        "patch_size": vision.get("patch_size", 16),
        "hidden_act": _activation(cfg),
    }


def _text_config(encoder: DualEncoder, cfg: Mapping[str, Any]) -> dict[str, Any]:
    text, tower = cfg["text_cfg"], encoder.text_tower
    width = text.get("width", 512)
    return {
        "vocab_size": tower.vocab_size,
        "hidden_size": width,
        "intermediate_size": int(width * text.get("mlp_ratio", 4.0)),
        "num_hidden_layers": text.get("layers", 12),
        "num_attention_heads": text.get("heads", 8),
        "max_position_embeddings": tower.context_length,
        "hidden_act": _activation(cfg),
        **_special_ids(text, tower.vocab_size, tower.pad_id),
    }


def _special_ids(text: Mapping[str, Any], vocab_size: int, pad_id: int) -> dict[str, Any]:
    """Return the ids of start, end and padding; CLIPModel pools at the end token."""
    if text.get("pool_type", "argmax") == "argmax":
        if vocab_size == _CLIP_VOCABULARY:
            return {"bos_token_id": _CLIP_START, "eos_token_id": _CLIP_END,
                    "pad_token_id": _CLIP_END}  # fmt: skip
        end = _ARGMAX_POOLING
    elif (end := int(text.get("eos_id", 2))) == _ARGMAX_POOLING:
        raise _not_expressed(
            "text_tower", "pooling at the id 2, which it takes for the greatest id instead"
        )
    return {"bos_token_id": None, "eos_token_id": end, "pad_token_id": pad_id}


def _activation(cfg: Mapping[str, Any]) -> str:
    return "quick_gelu" if cfg.get("quick_gelu") else "gelu"


def _check_bias(encoder: DualEncoder) -> None:
    if encoder.logit_bias is not None:
        raise _not_expressed(
            "logit_bias",
            "a bias (the encoder was made for the sigmoid loss), and its SiglipModel "
            "no class token, only attention pooling of timm's ViTs",
        )


def _check_tower(
    tower: str, cfg: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]
) -> None:
    if tower == "image_tower" and not isinstance(cfg.get("layers", 12), int):
        raise _not_expressed(tower, "a ResNet, only a ViT")
    for key, values in allowed.items():
        value = cfg.get(key, values[0])
        if value not in values:
            raise _not_expressed(tower, f"{key} = {value!r}, only {values[0]!r}")


def _not_expressed(part: str, what: str) -> ConfigError:
    return ConfigError(
        f"{part}: transformers' CLIPModel has no {what}; export with --format open_clip, onnx or "
        f"safetensors instead"
    )
