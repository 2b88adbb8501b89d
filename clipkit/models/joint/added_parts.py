"""Parts that make a joint encoder of a trained encoder."""

from __future__ import annotations

from clipkit.errors import ConfigError
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.joint.checked_parts import checked_fused_head
from clipkit.models.joint.fusion import Fusion
from clipkit.models.joint.joint_encoder import FUSED, JointEncoder
from clipkit.models.joint.word_head import WordHead
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.models.tower_encoder import TowerEncoder


def with_fusion(
    encoder: TowerEncoder, fusion: Fusion, word_head: WordHead | None = None
) -> JointEncoder:
    """Add a fusion to an encoder, which may be trained: its towers, heads and scales are kept.

    Args:
        encoder: Encoder whose parts are used, such as ``from_checkpoint(PATH)``.
        fusion: Network over the token sequences of its towers.
        word_head: Head that predicts masked words; None for none.

    Raises:
        ConfigError: If the parts do not fit together.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=1, num_heads=2))
        >>> joint.image_tower is encoder.image_tower
        True
    """
    heads = {name: head for name, head in encoder.heads.items() if name != FUSED}
    joint = JointEncoder(encoder.towers, fusion, word_head, heads, **encoder.config())
    joint.log_logit_scale, joint.logit_bias = encoder.log_logit_scale, encoder.logit_bias
    joint.image_mean, joint.image_std = encoder.image_mean, encoder.image_std
    if isinstance(encoder, NamedTowerEncoder):
        joint.log_pair_scales = encoder.log_pair_scales
    for part in (joint.token_inputs, joint.fusion, joint.matching, joint.word_head):
        if part is not None:
            part.to(encoder.log_logit_scale)  # to the device and the type of the other weights
    return joint


def with_fused_head(encoder: TowerEncoder, head: LabelHead) -> JointEncoder:
    """Add a label head on the fusion, for the answers or classes of image and text together.

    Args:
        encoder: A ``JointEncoder``, which is changed. A head that its fusion has is replaced.
        head: Head whose ``embedding_dim`` is the width of the fusion.

    Raises:
        ConfigError: If the encoder has no fusion, or the head does not fit it.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=1, num_heads=2))
        >>> with_fused_head(joint, LinearLabelHead(16, num_classes=3)).num_fused_classes
        3
    """
    if not isinstance(encoder, JointEncoder):
        raise ConfigError(
            f"encoder: expected one with a fusion, got {type(encoder).__name__}; add one with "
            f"clipkit.models.with_fusion"
        )
    checked = checked_fused_head(head, encoder.fusion)
    assert checked is not None, "there is a head"
    encoder.label_heads[FUSED] = checked.to(encoder.log_logit_scale)
    return encoder
