"""An encoder of a file as the kind that a caller asks for, and what loads the other kinds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Final

from clipkit.errors import CheckpointError, ConfigError
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.joint.joint_encoder import FUSED, JointEncoder
from clipkit.models.multimodal_encoder import MultimodalEncoder
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.models.tower_encoder import TowerEncoder

_LOG: Final = logging.getLogger(__name__)


def loader_name(encoder: TowerEncoder) -> str:
    """Return the name of the function of ``clipkit.models`` that loads all of an encoder."""
    if isinstance(encoder, DualEncoder):
        return "load_encoder"
    return "load_joint_encoder" if isinstance(encoder, JointEncoder) else "load_multimodal_encoder"


def as_dual(
    encoder: TowerEncoder, where: Path | str, instead: str = "load_multimodal_encoder"
) -> DualEncoder:
    """Return an encoder of images and texts: the given one, or two towers of one with more.

    Args:
        encoder: Encoder of any towers.
        where: Its file, for messages.
        instead: Name of the function that loads encoders without image or text, for messages.

    Raises:
        CheckpointError: If it has no image or no text tower.
    """
    if isinstance(encoder, DualEncoder):
        return encoder
    assert isinstance(encoder, NamedTowerEncoder), "these are all kinds of encoder"
    try:
        dual = encoder.dual()
    except ConfigError as error:
        raise CheckpointError(f"{where}: {error}; use {instead}") from error
    heads = [name for name in encoder.heads if name != "image"]
    # One of images and texts with a fusion is this encoder without the fusion.
    if encoder.modalities or heads or not isinstance(encoder, JointEncoder):
        towers, without = ", ".join(encoder.towers), ", ".join(heads)
        lost = f", without the label heads on {without}" if heads else ""
        _LOG.warning("%s: using the image and text towers of %s%s", where, towers, lost)
    return dual


def as_multimodal(
    encoder: TowerEncoder, where: Path | str, instead: str = "load_encoder"
) -> MultimodalEncoder:
    """Return an encoder of any number of towers: the given one, or one with a fusion without it.

    Args:
        encoder: Encoder of any towers.
        where: Its file, for messages.
        instead: Name of the function that loads encoders of images and texts, for messages.

    Raises:
        CheckpointError: If it is one of images and texts.
    """
    if isinstance(encoder, JointEncoder):
        return _without_fusion(encoder)
    if not isinstance(encoder, MultimodalEncoder):
        raise CheckpointError(
            f"{where}: expected a MultimodalEncoder, got {type(encoder).__name__}; use {instead}"
        )
    return encoder


def _without_fusion(joint: JointEncoder) -> MultimodalEncoder:
    """Return the towers, their heads and scales of a joint encoder, which are shared."""
    heads = {name: head for name, head in joint.heads.items() if name != FUSED}
    encoder = MultimodalEncoder(joint.towers, heads, **joint.config())
    encoder.log_logit_scale, encoder.logit_bias = joint.log_logit_scale, joint.logit_bias
    encoder.log_pair_scales = joint.log_pair_scales
    encoder.image_mean, encoder.image_std = joint.image_mean, joint.image_std
    return encoder.to(joint.log_logit_scale.device).train(joint.training)
