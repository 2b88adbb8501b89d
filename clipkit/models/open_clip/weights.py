"""Build open_clip's modules and load weights into them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipkit.errors import CheckpointError, ConfigError, first_line
from clipkit.hub import HUB_PREFIX, hub_file, is_hub_name
from clipkit.models.files.state_dicts import describe_mismatch, mismatch, read_state_dict
from clipkit.models.files.structure import is_structure_only
from clipkit.models.open_clip.config import OpenClipConfig, merge_preprocess
from clipkit.models.towers.patches import project_patches
from clipkit.models.towers.timm_layers import fit_input_size
from clipkit.remote_code import is_trusted, load_trusted, refuse_remote_code
from clipkit.suggestions import did_you_mean

WEIGHTS_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
"""Names of open_clip's weights on the hub and in a folder; the first one is written."""

# open_clip builds both towers or none; the one that is not needed is made as small as possible.
_NO_IMAGE = {"layers": 1, "width": 8, "head_width": 8, "patch_size": 1, "image_size": 1}
_NO_TEXT = {"context_length": 1, "vocab_size": 1, "width": 8, "heads": 1, "layers": 1}


def build_clip(config: OpenClipConfig) -> Any:
    """Build open_clip's two-tower module, with a separate module for texts (``.text``).

    A part that ``config`` lacks is replaced by a tiny one. Parts that only a captioner needs
    (CoCa's decoder) are left out.
    """
    import open_clip

    from clipkit.models.open_clip.attention import fuse_attention
    from clipkit.models.open_clip.class_token_block import read_class_token_only

    model = without_downloads(config).model if is_structure_only() else config.model
    text_cfg = {**model.get("text_cfg", _NO_TEXT), "output_tokens": False}
    vision_cfg = {**model.get("vision_cfg", _NO_IMAGE), "output_tokens": False}
    if name := text_cfg.get("hf_model_name"):
        _refuse_code(str(name))
    try:
        clip = open_clip.CustomTextCLIP(
            model["embed_dim"], vision_cfg, text_cfg, quick_gelu=model.get("quick_gelu", False)
        )
    except Exception as error:  # timm, transformers and the network raise many types
        raise ConfigError(
            f"model: open_clip cannot build this configuration: "
            f"{type(error).__name__}: {first_line(error)}{_offline_hint(model)}"
        ) from error
    if vision_cfg.get("timm_model_name"):  # open_clip changes the size in the dictionary
        size = vision_cfg.get("image_size", 224)
        fit_input_size(clip.visual.trunk, size, option="vision_cfg.image_size")
    if isinstance(clip.text, open_clip.transformer.TextTransformer):
        clip.text.transformer.register_forward_pre_hook(_cut_mask, with_kwargs=True)
    project_patches(clip.visual, "conv1")
    project_patches(getattr(getattr(clip.visual, "trunk", None), "patch_embed", None), "proj")
    fuse_attention(clip)
    read_class_token_only(clip.visual)
    return clip


def _refuse_code(name: str) -> None:
    """Refuse a text encoder with remote code, which open_clip would let transformers run."""
    from transformers import MODEL_MAPPING, AutoConfig

    if is_trusted():
        return
    what = f"model: text_cfg.hf_model_name {name!r}"
    try:
        config = load_trusted(
            what, lambda trusted: AutoConfig.from_pretrained(name, trust_remote_code=trusted)
        )
    except ConfigError:
        raise
    except Exception:
        return
    if "AutoModel" in getattr(config, "auto_map", {}) and type(config) not in MODEL_MAPPING:
        raise refuse_remote_code(what)


def _cut_mask(
    module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Tensor, ...], dict[str, Any]]:
    """Truncate a causal mask to the length of the text; open_clip 3.3 fails with the full one."""
    del module
    mask, length = kwargs.get("attn_mask"), args[0].shape[1]
    if mask is not None:
        kwargs = {**kwargs, "attn_mask": mask[..., :length, :length]}
    return args, kwargs


def _offline_hint(model: Mapping[str, Any]) -> str:
    hub = model.get("text_cfg", {}).get("hf_model_name")
    trunk = model.get("vision_cfg", {}).get("timm_model_pretrained")
    if hub:
        return f" (it needs {hub!r} from the Hugging Face hub or its cache, or a folder)"
    return " (timm_model_pretrained: true needs the network or a cache)" if trunk else ""


def has_weights(model: str | Mapping[str, Any], pretrained: str | None) -> bool:
    """Return whether a model has weights to load: a model of the hub always has them."""
    return pretrained is not None or is_hub_name(model)


def load_clip(config: OpenClipConfig, pretrained: str | None) -> tuple[Any, OpenClipConfig]:
    """Build both towers of ``config`` and load pretrained weights.

    Without ``pretrained``, ``config`` is that of a model of the hub, which has its own weights.
    """
    path = None
    if is_structure_only():
        preprocess = _known_preprocess(config, pretrained)
    else:
        path, preprocess = _find_weights(config, pretrained)
    loaded = replace(without_downloads(config), preprocess=preprocess)
    clip = build_clip(loaded)
    bias = config.model.get("init_logit_bias")
    if bias is not None:
        clip.logit_bias = nn.Parameter(torch.tensor(float(bias)))
    if path is not None:
        _fill(clip, path)
    return clip, loaded


def _known_preprocess(config: OpenClipConfig, pretrained: str | None) -> dict[str, Any]:
    """Return the preprocessing of pretrained weights without looking for their file."""
    import open_clip

    if pretrained is None or config.name is None or Path(pretrained).is_file():
        return config.preprocess
    return merge_preprocess(open_clip.get_pretrained_cfg(config.name, pretrained))


def _bare(model: Mapping[str, Any]) -> dict[str, Any]:
    """Remove pretrained trunks from the configuration: other weights are loaded afterwards."""
    bare: dict[str, Any] = {}
    if model.get("vision_cfg", {}).get("timm_model_name"):
        bare["vision_cfg"] = {**model["vision_cfg"], "timm_model_pretrained": False}
    if model.get("text_cfg", {}).get("hf_model_name"):
        bare["text_cfg"] = {**model["text_cfg"], "hf_model_pretrained": False}
    return bare


def without_downloads(config: OpenClipConfig) -> OpenClipConfig:
    """Return the same architecture, which is built without a pretrained trunk."""
    return replace(config, model={**config.model, **_bare(config.model)})


def _find_weights(config: OpenClipConfig, pretrained: str | None) -> tuple[Path, dict[str, Any]]:
    """Return the file of weights and their preprocessing."""
    import open_clip

    if pretrained is None:
        assert config.source is not None, "only a model of the hub has weights of its own"
        return hub_file(config.source, *WEIGHTS_FILES), config.preprocess
    if Path(pretrained).is_file():
        return Path(pretrained), config.preprocess
    if is_hub_name(config.source):
        raise ConfigError(
            f"pretrained: {pretrained!r} is no file; a model of the hub has its own weights: omit "
            f"pretrained, and write a revision into the name, as {HUB_PREFIX}OWNER/NAME@REVISION"
        )
    tags = open_clip.list_pretrained_tags_by_model(config.name) if config.name else []
    if pretrained not in tags:
        known = f"; its tags are {', '.join(tags)}" if tags else ""
        raise ConfigError(
            f"pretrained: {pretrained!r} is neither a file nor a tag of "
            f"{config.name or 'this configuration'}{did_you_mean(pretrained, tags)}{known}"
        )
    tag = open_clip.get_pretrained_cfg(config.name, pretrained)
    if tag.get("quick_gelu", False) != config.model.get("quick_gelu", False):
        warnings.warn(
            f"model {config.name!r}: quick_gelu is {config.model.get('quick_gelu', False)}, but "
            f"{pretrained!r} was trained with {tag.get('quick_gelu', False)}; "
            f"its embeddings will be poor",
            stacklevel=4,
        )
    try:
        return Path(open_clip.download_pretrained(tag)), merge_preprocess(tag)
    except Exception as error:  # the hub's, urllib's and the disk's errors have no common base
        raise ConfigError(
            f"pretrained: the weights {pretrained!r} of {config.name!r} are not in the cache and "
            f"could not be downloaded ({type(error).__name__}: {error}); with no network, copy "
            f"the file to this machine and set pretrained to its path"
        ) from error


def _fill(clip: nn.Module, path: Path) -> None:
    """Load weights in any form that open_clip reads; positions are resized as by open_clip."""
    import open_clip

    try:
        result = open_clip.load_checkpoint(clip, str(path), strict=False)
    except Exception as error:  # open_clip raises many types for foreign files
        raise CheckpointError(f"{path}: {_explain(clip, path) or error}") from error
    missing = list(getattr(result, "missing_keys", []))
    extra = [key for key in getattr(result, "unexpected_keys", []) if not _is_decoder(key)]
    if missing or extra:
        raise CheckpointError(
            f"{path}: {_explain(clip, path) or describe_mismatch(missing, extra, [])}"
        )


def _is_decoder(key: str) -> bool:
    return key.startswith("text_decoder.")


def _explain(clip: nn.Module, path: Path) -> str:
    """Describe which parameters of a file differ from the module's."""
    given: dict[str, Tensor] = read_state_dict(path)
    if any(key.startswith("encoder.") for key in given):
        return (
            "this is a checkpoint of clipkit, not of open_clip; load it with "
            "clipkit.models.load_encoder, or export it first (clipkit export)"
        )
    if "positional_embedding" in given:  # the names of open_clip's plain CLIP
        given = {_custom_text_name(key): value for key, value in given.items()}
    return mismatch(clip.state_dict(), {k: v for k, v in given.items() if not _is_decoder(k)})


def _custom_text_name(key: str) -> str:
    return key if key.startswith(("visual.", "logit_")) else f"text.{key}"
