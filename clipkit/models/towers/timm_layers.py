"""Order of layers and input size of timm's models."""

from __future__ import annotations

from typing import Any

from clipkit.errors import ConfigError


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
