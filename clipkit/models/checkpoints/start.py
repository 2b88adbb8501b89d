"""Start a run from the weights of another."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from clipkit.models.checkpoints.encoder import load_joint_encoder, read_towers
from clipkit.models.checkpoints.kinds import as_dual, as_multimodal
from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.joint.joint_encoder import JointEncoder
from clipkit.models.multimodal_encoder import MultimodalEncoder

_LOG: Final = logging.getLogger(__name__)


def from_checkpoint(
    path: Path | str, label_head: LabelHead | None = None, prefix: str | None = None
) -> DualEncoder:
    """Load the encoder of a checkpoint as the start of a run with another objective.

    Unlike ``--ckpt_path``, which resumes a run, this loads nothing but the weights.

    Args:
        path: A checkpoint of ``clipkit fit``, a folder of an export, or a model of the hub; see
            ``load_encoder``.
        label_head: Label head that replaces the checkpoint's; None keeps the checkpoint's, if any.
        prefix: "ema." for the moving average of the weights, "encoder." for the trained weights,
            None for the average if there is one.

    Returns:
        The encoder in training mode, with no layer locked; of one with more towers, image and text
        tower (see ``from_multimodal_checkpoint``).

    Raises:
        CheckpointError: As for ``load_encoder``.
        ConfigError: If the label head does not fit the towers.

    Examples:
        >>> save_encoder(encoder, "export")
        >>> head = LinearLabelHead(encoder.embedding_dim, num_classes=10)
        >>> from_checkpoint("export", head).label_head.num_classes
        10
    """
    read, kind = read_towers(path, prefix)
    loaded = as_dual(read, path, "from_multimodal_checkpoint")
    _log_weights(path, kind)
    if label_head is None:
        return loaded.train()
    encoder = DualEncoder(loaded.image_tower, loaded.text_tower, label_head, **loaded.config())
    weights = loaded.state_dict().items()
    kept = {name: value for name, value in weights if not name.startswith("label_head.")}
    encoder.load_state_dict(kept, strict=False)  # only a new head keeps its initial values
    return encoder.train()


def from_multimodal_checkpoint(
    path: Path | str,
    label_heads: Mapping[str, LabelHead] | None = None,
    prefix: str | None = None,
) -> MultimodalEncoder:
    """Load an encoder with all of its towers as the start of a run with another objective.

    Args:
        path: As for ``from_checkpoint``.
        label_heads: Label heads by the name of their tower, which replace or complement those of
            the checkpoint; None keeps the checkpoint's, if any.
        prefix: As for ``from_checkpoint``.

    Returns:
        The encoder in training mode, with no layer locked; of one with a fusion, what it is
        without the fusion.

    Raises:
        CheckpointError: As for ``load_encoder``, or if it is an encoder of images and texts.
        ConfigError: If a label head does not fit the towers.

    Examples:
        >>> save_encoder(MultimodalEncoder(encoder.towers), "export")
        >>> head = LinearLabelHead(encoder.embedding_dim, num_classes=10)
        >>> from_multimodal_checkpoint("export", {"text": head}).heads["text"].num_classes
        10
    """
    read, kind = read_towers(path, prefix)
    loaded = as_multimodal(read, path, "from_checkpoint")
    _log_weights(path, kind)
    if not label_heads:
        return loaded.train()
    heads = {**loaded.heads, **label_heads}
    encoder = MultimodalEncoder(loaded.towers, heads, **loaded.config())
    weights = loaded.state_dict().items()
    new = tuple(_head_prefix(name) for name in label_heads)
    kept = {name: value for name, value in weights if not name.startswith(new)}
    encoder.load_state_dict(kept, strict=False)  # only new heads keep their initial values
    return encoder.train()


def from_joint_checkpoint(path: Path | str, prefix: str | None = None) -> JointEncoder:
    """Load an encoder with its fusion as the start of a run with another objective.

    Args:
        path: As for ``from_checkpoint``.
        prefix: As for ``from_checkpoint``.

    Returns:
        The encoder in training mode, with no layer locked.

    Raises:
        CheckpointError: As for ``load_encoder``, or if it is an encoder without a fusion.

    Examples:
        >>> fusion = CrossAttentionFusion(width=16, depth=1, num_heads=2)
        >>> save_encoder(with_fusion(encoder, fusion), "export")
        >>> from_joint_checkpoint("export").fused_names
        ('text', 'image')
    """
    return load_joint_encoder(path, prefix).train()


def _head_prefix(name: str) -> str:
    """Return the prefix of the weights of a label head, by the name of its tower."""
    return "label_head." if name == "image" else f"label_heads.{name}."


def _log_weights(path: Path | str, kind: str | None) -> None:
    if kind is not None:
        _LOG.warning("%s: starting from the %s weights", path, kind)
