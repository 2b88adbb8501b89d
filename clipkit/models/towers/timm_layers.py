"""timm's models: how they are built, the order of their layers and their input size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.models.files.structure import is_structure_only
from clipkit.models.towers.tokens import channels_as_tokens
from clipkit.suggestions import did_you_mean


def create_trunk(model: str, pretrained: bool | str, options: Mapping[str, Any]) -> Any:
    """Build a timm model without its classifier.

    Args:
        model: A name of ``timm.list_models()``, with or without the tag of its weights.
        pretrained: True for timm's weights, the path of a file of weights of the complete model,
            or False for random initialisation.
        options: Further arguments of the model.

    Raises:
        ConfigError: If timm has no such model, or cannot get or read the weights.
        TypeError: If the model does not know an option.
    """
    import timm

    if not timm.is_model(model):
        raise ConfigError(
            f"model: timm has no model {model!r}{did_you_mean(model, timm.list_models())}"
        )
    overlay = None
    if isinstance(pretrained, str):
        if not Path(pretrained).is_file():
            raise ConfigError(f"pretrained: there is no file {pretrained!r}")
        overlay = {"file": pretrained}
    loads = bool(pretrained) and not is_structure_only()
    weights = {"pretrained": loads, "pretrained_cfg_overlay": overlay}
    try:
        return timm.create_model(model, num_classes=0, **weights, **options)
    except Exception as error:  # the hub's and the disk's errors have no common base
        if options and isinstance(error, TypeError):
            raise
        raise ConfigError(
            f"model: timm cannot build {model!r} with pretrained={pretrained!r}: "
            f"{type(error).__name__}: {error}; without network, set pretrained to a file"
        ) from error


def create_patch_trunk(
    model: str,
    pretrained: bool | str,
    patch_dropout: float,
    options: Mapping[str, Any] | None = None,
) -> Any:
    """Build a timm model without its classifier, which may leave out patches in training.

    Args:
        model: A name of ``timm.list_models()``, with or without the tag of its weights.
        pretrained: As for ``create_trunk``.
        patch_dropout: Share of a transformer's patches that training leaves out.
        options: Further arguments that every model of timm knows.

    Raises:
        ConfigError: As for ``create_trunk``, or if the model cannot leave out patches.
    """
    if not 0 <= patch_dropout < 1:
        raise ConfigError(f"patch_dropout: expected 0 up to but not 1, got {patch_dropout}")
    dropout = {"patch_drop_rate": patch_dropout} if patch_dropout else {}
    try:
        return create_trunk(model, pretrained, {**dropout, **(options or {})})
    except TypeError as error:
        if not patch_dropout:
            raise
        raise ConfigError(
            f"patch_dropout: timm's {model!r} cannot leave out patches; use a vision "
            f"transformer, or omit the option"
        ) from error


def num_features(trunk: Any) -> int:
    """Return the number of features that a timm model without its classifier returns."""
    return int(getattr(trunk, "head_hidden_size", None) or trunk.num_features)


def trunk_groups(trunk: Any) -> list[list[str]]:
    """Group the names of a timm model's parameters from input to output."""
    from timm.models import group_parameters

    groups = group_parameters(trunk, trunk.group_matcher())
    return [sorted(groups[depth]) for depth in sorted(groups)]


def native_size(trunk: Any) -> int | None:
    """Return the only input size of a timm model, in pixels; None if it accepts any size."""
    cfg = trunk.default_cfg
    return int(cfg["input_size"][-1]) if cfg.get("fixed_input_size", False) else None


def fit_input_size(trunk: Any, image_size: int, option: str) -> None:
    """Change the input size of a model of fixed size; positions are interpolated."""
    native = native_size(trunk)
    if native in (None, image_size):
        return
    name = trunk.default_cfg.get("architecture", type(trunk).__name__)
    if not hasattr(trunk, "set_input_size"):
        raise ConfigError(
            f"{option}: timm's {name!r} works only at {native} pixels, got {image_size}"
        )
    try:
        trunk.set_input_size(image_size)
    except Exception as error:  # windows and patches that do not divide the size
        raise ConfigError(
            f"{option}: timm's {name!r} cannot work at {image_size}: {error}"
        ) from error


_POOLS = ("global_pool", "head.global_pool")


def trunk_token_module(trunk: Any) -> nn.Module:
    """Return the module of a timm model that returns all tokens, or that pools a map of features.

    Raises:
        ConfigError: If the model has neither.
    """
    if isinstance(norm := getattr(trunk, "norm", None), nn.ModuleList):
        raise ConfigError(
            f"model: {type(trunk).__name__} has {len(norm)} branches with tokens of their own; for "
            f"a joint encoder use a model with one sequence, such as a vision transformer"
        )
    if isinstance(norm, nn.Module):
        return norm
    modules = dict(trunk.named_modules())
    for name in _POOLS:
        if name in modules:
            pool: nn.Module = modules[name]
            return pool
    raise ConfigError(
        f"model: the states of {type(trunk).__name__} before pooling cannot be read; for a joint "
        f"encoder use a vision transformer or a convolutional network with global pooling"
    )


def trunk_tokens(
    trunk: Any, inputs: tuple[Any, ...], output: Any
) -> Float[Tensor, "B tokens width"]:
    """Return the tokens from a call of ``trunk_token_module``.

    Raises:
        ConfigError: If the model keeps nothing but class tokens, or pooled features.
    """
    is_norm = isinstance(getattr(trunk, "norm", None), nn.Module)
    features = output if is_norm else inputs[0]
    of_classes = int(getattr(trunk, "num_prefix_tokens", getattr(trunk, "num_tokens", 0)))
    if features.ndim < 3 or (is_norm and features.ndim == 3 and features.shape[1] <= of_classes):
        raise ConfigError(
            f"model: {type(trunk).__name__} normalises its class tokens or pooled features alone, "
            f"got {list(features.shape)}; for a joint encoder use a model that keeps all tokens, "
            f"such as a vision transformer"
        )
    return channels_as_tokens(features, int(trunk.num_features))
