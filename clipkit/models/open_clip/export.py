"""Convert an encoder to open_clip's configuration and names of weights."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.open_clip.towers import OpenClipImageTower, OpenClipTextTower
from clipkit.models.towers.timm_layers import native_size


def open_clip_config(encoder: DualEncoder) -> dict[str, Any]:
    """Return the contents of ``open_clip_config.json``."""
    image, text = _parts(encoder)
    image_cfg, text_cfg = image["model_cfg"], text["model_cfg"]
    quick_gelu = _common_activation(image_cfg, text_cfg)
    model_cfg = {
        "embed_dim": image_cfg["embed_dim"],
        **({"quick_gelu": True} if quick_gelu else {}),
        **({"custom_text": True} if _has_custom_text(encoder, text_cfg) else {}),
        **_start(encoder),
        "vision_cfg": _without_tokens(image_cfg["vision_cfg"]),
        "text_cfg": _without_tokens(text_cfg["text_cfg"]),
    }
    return {"model_cfg": model_cfg, "preprocess_cfg": image["preprocess_cfg"]}


def open_clip_state(encoder: DualEncoder) -> dict[str, Tensor]:
    """Return the weights under the names of open_clip's module of that configuration."""
    _, text = _parts(encoder)
    prefix = "text." if _has_custom_text(encoder, text["model_cfg"]) else ""
    image_state = encoder.image_tower.state_dict()
    text_state = encoder.text_tower.state_dict()
    state = {"logit_scale": encoder.logit_scale.detach().log()}
    if encoder.logit_bias is not None:
        state["logit_bias"] = encoder.logit_bias.detach()
    state.update(image_state)
    state.update({f"{prefix}{k.removeprefix('text.')}": v for k, v in text_state.items()})
    return state


def _without_tokens(cfg: dict[str, Any]) -> dict[str, Any]:
    """Remove the second output of a tower, which only a captioner (CoCa) reads."""
    return {key: value for key, value in cfg.items() if key != "output_tokens"}


def _parts(encoder: DualEncoder) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the configuration of both towers if open_clip can express them."""
    image, text = encoder.image_tower, encoder.text_tower
    for name, tower, expected in (
        ("image_tower", image, OpenClipImageTower),
        ("text_tower", text, OpenClipTextTower),
    ):
        if not isinstance(tower, expected):
            raise ConfigError(
                f"{name}: open_clip cannot express a {type(tower).__name__}, only a "
                f"{expected.__name__}; export with --format safetensors instead"
            )
    image_part, text_part = image.config()["model"], text.config()["model"]
    vision_cfg = image_part["model_cfg"]["vision_cfg"]
    trunk = getattr(image.visual, "trunk", None)
    built_for = native_size(trunk) if trunk is not None else None
    if built_for not in (None, image.image_size):
        raise ConfigError(
            f"image_tower: open_clip builds timm's {vision_cfg['timm_model_name']!r} only for "
            f"{built_for} pixels, this one is built for {image.image_size}; export with "
            f"--format safetensors instead"
        )
    return image_part, text_part


def _common_activation(image_cfg: dict[str, Any], text_cfg: dict[str, Any]) -> bool:
    """Return whether open_clip's common ``quick_gelu`` of both towers must be on."""
    wanted = set()
    if not image_cfg["vision_cfg"].get("timm_model_name"):
        wanted.add(bool(image_cfg.get("quick_gelu")))
    if not text_cfg["text_cfg"].get("hf_model_name"):
        wanted.add(bool(text_cfg.get("quick_gelu")))
    if len(wanted) > 1:
        raise ConfigError(
            "quick_gelu: open_clip has one switch for both towers, but they differ; "
            "export with --format safetensors instead"
        )
    return wanted == {True}


def _has_custom_text(encoder: DualEncoder, text_cfg: dict[str, Any]) -> bool:
    """Return whether open_clip keeps the text tower in a separate module (``text.``).

    Its plain CLIP cannot contain a tower of transformers, a class token, or a projection other
    than one matrix.
    """
    if text_cfg.get("custom_text") or text_cfg["text_cfg"].get("hf_model_name"):
        return True
    text: Any = encoder.text_tower
    plain = isinstance(text.text.text_projection, nn.Parameter) and text.text.cls_emb is None
    return not plain


def _start(encoder: DualEncoder) -> dict[str, float]:
    """Return the initial values, from which open_clip reads whether there is a bias."""
    start = encoder.config()
    if start["logit_bias"] is None:
        return {}
    return {
        "init_logit_scale": math.log(start["logit_scale"]),
        "init_logit_bias": start["logit_bias"],
    }
