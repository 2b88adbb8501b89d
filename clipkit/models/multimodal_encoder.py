"""The model for any number of modalities, each with a tower, in one embedding space."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import final

import torch

from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.models.towers.base import SignalTower


@final
class MultimodalEncoder(NamedTowerEncoder):
    """Any number of towers by name, with one embedding space and one scale of similarities.

    A tower embeds the samples that have its modality; the embedding of others is zero. A batch
    without any still runs one row, so that every rank runs every tower. Parameters are named as in
    ``DualEncoder``: ``image_tower``, ``text_tower``, ``sound_tower``.

    Args:
        towers: Tower by the name of its modality: an ``ImageTower`` for "image", a ``TextTower``
            for "text", and a ``SignalTower`` for any other name, which is that of its field in
            ``data.samples.fields``. All have the same ``embedding_dim``.
        label_heads: Head that scores classes from the embeddings of a tower, by its name; None for
            no head.
        logit_scale: Initial inverse temperature, linear.
        logit_bias: Initial bias that is added to the scaled similarities; None for no bias.
        max_logit_scale: Upper limit of the scales; None for no limit.
        pair_scales: Pairs of modalities that have a scale of their own, such as "sound:text".

    Attributes:
        log_pair_scales: The logarithm of the scale of each pair of ``pair_scales``.

    Raises:
        ConfigError: If there is no tower, or the parts do not fit together.

    Examples:
        >>> towers = {"image": encoder.image_tower, "text": encoder.text_tower}
        >>> MultimodalEncoder(towers).towers.keys()
        dict_keys(['image', 'text'])
    """


def with_towers(
    encoder: DualEncoder,
    towers: Mapping[str, SignalTower],
    label_heads: Mapping[str, LabelHead] | None = None,
    pair_scales: Sequence[str] = (),
) -> MultimodalEncoder:
    """Add towers for further modalities to an encoder of images and texts, which may be trained.

    Args:
        encoder: Encoder whose towers, scale, bias and label head are kept.
        towers: Further towers by the name of their modality.
        label_heads: Label heads on any tower, by name; one for "image" replaces the encoder's.
        pair_scales: Pairs of modalities that have a scale of their own, such as "sound:text"; it
            starts at the encoder's.

    Raises:
        ConfigError: If the parts do not fit together.

    Examples:
        >>> with_towers(encoder, {}).towers.keys()
        dict_keys(['image', 'text'])
    """
    own_heads = {name: head for name, head in encoder.heads.items() if name in encoder.towers}
    merged = MultimodalEncoder(
        {**encoder.towers, **towers},
        {**own_heads, **(label_heads or {})},
        pair_scales=pair_scales,
        **encoder.config(),
    )
    with torch.no_grad():
        for log in merged.log_pair_scales.values():
            log.copy_(encoder.log_logit_scale)
    merged.log_logit_scale, merged.logit_bias = encoder.log_logit_scale, encoder.logit_bias
    merged.image_mean, merged.image_std = encoder.image_mean, encoder.image_std
    for part in (*towers.values(), *(label_heads or {}).values(), merged.log_pair_scales):
        part.to(encoder.log_logit_scale)  # to the device and the type of the other weights
    return merged
