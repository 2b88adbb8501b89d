"""The preprocessing of an image tower as options of transformers."""

from __future__ import annotations

from typing import Any

from clipkit.errors import ConfigError
from clipkit.models import TowerEncoder


def image_processor_options(encoder: TowerEncoder) -> dict[str, Any]:
    """Return the arguments of a ``CLIPImageProcessor`` with the preprocessing of an encoder."""
    from PIL.Image import Resampling

    tower = encoder.image_tower
    size = tower.image_size
    if tower.budget is not None:
        raise ConfigError(
            "image_tower: transformers' CLIPImageProcessor makes images of one shape, this tower "
            "reads images of any shape; export with --format safetensors instead"
        )
    if tower.resize_mode not in ("shortest", "squash"):
        raise ConfigError(
            f"image_tower: transformers' CLIPImageProcessor has no resize_mode "
            f"{tower.resize_mode!r}, only 'shortest' and 'squash'; export with --format open_clip, "
            f"onnx or safetensors instead"
        )
    square = {"height": size, "width": size}
    crops = tower.resize_mode == "shortest"
    return {
        "size": {"shortest_edge": size} if crops else square,
        "do_center_crop": crops,
        "crop_size": square,
        "resample": int(Resampling[tower.interpolation.upper()]),
        "image_mean": list(tower.image_mean),
        "image_std": list(tower.image_std),
    }
