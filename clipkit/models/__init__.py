"""Towers, the dual encoder over them, and their checkpoints."""

from clipkit.models.checkpoints import (
    from_checkpoint,
    load_encoder,
    save_encoder,
    save_open_clip,
)
from clipkit.models.description import describe
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.freezing import lock
from clipkit.models.interpolation import interpolate
from clipkit.models.label_head import CosineLabelHead, LabelHead, LinearLabelHead
from clipkit.models.open_clip_towers import OpenClipImageTower, OpenClipTextTower, from_open_clip
from clipkit.models.prototype_head import PrototypeLabelHead
from clipkit.models.timm_tower import TimmImageTower
from clipkit.models.towers import ImageTower, TextTower, Tower
from clipkit.models.transformers_tower import TransformersTextTower

__all__ = [
    "CosineLabelHead",
    "DualEncoder",
    "ImageTower",
    "LabelHead",
    "LinearLabelHead",
    "OpenClipImageTower",
    "OpenClipTextTower",
    "PrototypeLabelHead",
    "TextTower",
    "TimmImageTower",
    "Tower",
    "TransformersTextTower",
    "describe",
    "from_checkpoint",
    "from_open_clip",
    "interpolate",
    "load_encoder",
    "lock",
    "save_encoder",
    "save_open_clip",
]
