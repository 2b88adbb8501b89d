"""Find open_clip's configurations by name, in a file or in line, and check them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from clipkit.errors import ConfigError, check_at_least
from clipkit.hub import hub_file, is_hub_name, pinned
from clipkit.suggestions import did_you_mean

CONFIG_FILE_NAME = "open_clip_config.json"
_TOKENIZER_FILE_NAME = "tokenizer_config.json"
_TOP_KEYS = (
    *("embed_dim", "vision_cfg", "text_cfg", "quick_gelu", "custom_text"),
    *("init_logit_scale", "init_logit_bias", "nonscalar_logit_scale", "multimodal_cfg"),
)


@dataclass(frozen=True, slots=True)
class OpenClipConfig:
    """One architecture of open_clip with its image preprocessing.

    Args:
        model: open_clip's model_cfg: embed_dim, vision_cfg, text_cfg, ...
        preprocess: open_clip's preprocess_cfg: mean, std, interpolation, resize_mode.
        name: Name in ``open_clip.list_models()``; None for a model of the hub, a file or a
            dictionary.
        source: ``hf-hub:OWNER/NAME@COMMIT``, or the path of a folder with a tokenizer; None for
            any other.
    """

    model: dict[str, Any]
    preprocess: dict[str, Any] = field(default_factory=dict)
    name: str | None = None
    source: str | None = None

    def image_part(self) -> dict[str, Any]:
        """Return the image tower's part, in the layout of ``open_clip_config.json``."""
        model = {key: self.model[key] for key in ("embed_dim", "vision_cfg")}
        return {"model_cfg": self._with_activation(model), "preprocess_cfg": self.preprocess}

    def text_part(self) -> dict[str, Any]:
        """Return the text tower's part, in the layout of ``open_clip_config.json``."""
        model = {key: self.model[key] for key in ("embed_dim", "text_cfg")}
        if "custom_text" in self.model:
            model["custom_text"] = self.model["custom_text"]
        return {"model_cfg": self._with_activation(model)}

    def with_patch_dropout(self, share: float | None) -> OpenClipConfig:
        """Return the same architecture with patch dropout in training."""
        if share is None:
            return self
        vision = self.model["vision_cfg"]
        if not 0 <= share < 1:
            raise ConfigError(f"patch_dropout: expected 0 up to but not 1, got {share}")
        if share and isinstance(vision.get("layers"), list | tuple):
            raise ConfigError("patch_dropout: a ResNet has no patches; leave it out")
        vision = {**vision, "patch_dropout": share}
        return replace(self, model={**self.model, "vision_cfg": vision})

    def with_context_length(self, context_length: int) -> OpenClipConfig:
        """Return the same architecture for texts of another length, in tokens."""
        check_at_least("context_length", context_length, 1)
        text = {**self.model["text_cfg"], "context_length": context_length}
        return replace(self, model={**self.model, "text_cfg": text})

    def _with_activation(self, model: dict[str, Any]) -> dict[str, Any]:
        return deepcopy({**model, "quick_gelu": bool(self.model.get("quick_gelu", False))})


def read_config(model: str | Mapping[str, Any], *, needs: tuple[str, ...]) -> OpenClipConfig:
    """Find and check a configuration."""
    name, source, where, raw = _find(model)
    model_cfg = _dictionary(raw.get("model_cfg", raw), f"{where}: model_cfg")
    raw_preprocess = raw.get("preprocess_cfg", {}) if "model_cfg" in raw else {}
    preprocess = _dictionary(raw_preprocess, f"{where}: preprocess_cfg")
    check_model_cfg(model_cfg, where=where, needs=needs)
    return OpenClipConfig(model_cfg, merge_preprocess(preprocess, where), name, source)


def _dictionary(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: expected a dictionary, got {value!r}")
    return deepcopy(dict(value))


def merge_preprocess(overlay: Mapping[str, Any], where: str = "preprocess_cfg") -> dict[str, Any]:
    """Merge ``overlay`` into open_clip's default preprocessing, without the image size."""
    from open_clip.transform import PreprocessCfg

    merged = asdict(PreprocessCfg())
    merged.update({k: v for k, v in overlay.items() if k in merged and v is not None})
    for key in ("mean", "std"):
        try:
            red, green, blue = (float(value) for value in merged[key])
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{where}: {key}: expected 3 numbers, got {merged[key]}") from error
        merged[key] = [red, green, blue]
    return {key: merged[key] for key in ("mean", "std", "interpolation", "resize_mode")}


def check_model_cfg(model_cfg: Mapping[str, Any], *, where: str, needs: tuple[str, ...]) -> None:
    """Refuse unknown keys and missing parts."""
    from open_clip import CLIPTextCfg, CLIPVisionCfg

    _check_keys(model_cfg, _TOP_KEYS, where)
    for key in ("embed_dim", *needs):
        if key not in model_cfg:
            raise ConfigError(f"{where}: the open_clip configuration has no {key!r}; add it")
    for key, schema in (("vision_cfg", CLIPVisionCfg), ("text_cfg", CLIPTextCfg)):
        if key in model_cfg:
            _check_keys(model_cfg[key], [f.name for f in fields(schema)], f"{where}: {key}")
    size = model_cfg.get("vision_cfg", {}).get("image_size", 224)
    if not isinstance(size, int):
        raise ConfigError(
            f"{where}: vision_cfg.image_size: expected one number (square images), got {size}"
        )
    if "vision_cfg" in needs:
        _check_pooling(model_cfg["vision_cfg"], f"{where}: vision_cfg")


def _check_pooling(vision: Mapping[str, Any], where: str) -> None:
    """Refuse poolings by which open_clip's transformer returns no single vector per image.

    "parallel" and "cascade" are untested in open_clip: they fail unless all widths are equal, and
    then return a tensor of three axes, which no contrastive loss takes.
    """
    if vision.get("timm_model_name") or isinstance(vision.get("layers"), list | tuple):
        return  # these do not read the options
    if isinstance(pooling := vision.get("attentional_pool", False), str):
        raise ConfigError(
            f"{where}.attentional_pool: expected true or false, got {pooling!r}, with which "
            f"open_clip computes no embedding of an image"
        )
    if vision.get("pool_type") == "none":
        raise ConfigError(
            f"{where}.pool_type: expected 'tok' or 'avg', got 'none', with which open_clip "
            f"computes no embedding of an image"
        )


def _check_keys(given: Any, known: tuple[str, ...] | list[str], where: str) -> None:
    for key in _dictionary(given, where):
        if key not in known:
            raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(str(key), known)}")


def _find(
    model: str | Mapping[str, Any],
) -> tuple[str | None, str | None, str, Mapping[str, Any]]:
    """Return name and source of a configuration, its name in messages, and its raw content."""
    if isinstance(model, Mapping):
        return None, None, "model", model
    if is_hub_name(model):
        path = hub_file(model, CONFIG_FILE_NAME)
        return None, pinned(model, path), f"{model}: {CONFIG_FILE_NAME}", _read_json(path)
    import open_clip

    if model in open_clip.list_models():
        return model, None, f"model {model!r}", open_clip.get_model_config(model)
    path = Path(model)
    if path.is_dir() and (path / CONFIG_FILE_NAME).is_file():
        source = str(path.resolve()) if (path / _TOKENIZER_FILE_NAME).is_file() else None
        path = path / CONFIG_FILE_NAME
        return None, source, str(path), _read_json(path)
    if path.is_file():
        return None, None, str(path), _read_json(path)
    if path.suffix == ".json" or path.is_dir():
        raise ConfigError(f"model: there is no open_clip configuration at {model!r}")
    raise ConfigError(
        f"model: open_clip has no model {model!r} and there is no such file"
        f"{did_you_mean(model, open_clip.list_models())}"
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: expected an open_clip configuration in JSON: {error}"
        ) from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
