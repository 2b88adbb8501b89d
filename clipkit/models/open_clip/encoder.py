"""A dual encoder of any of open_clip's configurations."""

from __future__ import annotations

import math
from typing import Any

from clipkit.models.dual_encoder import DualEncoder
from clipkit.models.heads.label_head import LabelHead
from clipkit.models.open_clip.config import read_config
from clipkit.models.open_clip.context import stretch_context
from clipkit.models.open_clip.towers import (
    BOTH_TOWERS,
    OpenClipImageTower,
    OpenClipTextTower,
    tokenizer_name_of,
)
from clipkit.models.open_clip.weights import has_weights, load_clip, without_downloads
from clipkit.models.similarity_scale import SOFTMAX_LOGIT_SCALE


def from_open_clip(
    name: str | dict[str, Any],
    pretrained: str | None = None,
    label_head: LabelHead | None = None,
    patch_dropout: float | None = None,
    context_length: int | None = None,
) -> DualEncoder:
    """Build a dual encoder of any open_clip configuration, with or without its weights.

    Of a captioner (CoCa), only the two towers are used, without the decoder.

    Args:
        name: A name of ``open_clip.list_models()``, ``hf-hub:OWNER/NAME`` (with ``@REVISION`` for a
            branch, tag or commit), a path to a JSON configuration, or its contents.
        pretrained: Tag of that name, or path of weights; None for random initialisation, or for the
            weights of a model of the hub.
        label_head: Head that scores classes from image embeddings; None for no head.
        patch_dropout: Share of a vision transformer's patches that training leaves out (Li et al.
            2023, arXiv:2212.00794); None for the value of the configuration.
        context_length: Number of tokens of the longest text; None for that of the configuration.
            Positions of pretrained weights are stretched, except for the first 20 (Zhang et al.
            2024, arXiv:2403.15378); then fine-tune on long captions.

    Returns:
        The encoder; scale and bias are those of the weights or of the configuration.

    Raises:
        ConfigError: If the configuration is unknown (with close matches), or cannot be built or
            downloaded.
        CheckpointError: If the weights belong to another architecture.

    Examples:
        >>> encoder = from_open_clip("ViT-B-32-quickgelu", pretrained="openai")  # doctest: +SKIP
        >>> layers = {"width": 64, "layers": 1}
        >>> config = {"embed_dim": 32, "vision_cfg": {**layers, "image_size": 32, "patch_size": 16},
        ...           "text_cfg": {**layers, "heads": 1}}
        >>> from_open_clip(config).embedding_dim
        32
    """
    config = read_config(name, needs=BOTH_TOWERS).with_patch_dropout(patch_dropout)
    clip: Any = None
    if has_weights(name, pretrained):
        config = without_downloads(config)
        clip, config = load_clip(config, pretrained)
    if context_length is not None:
        if clip is not None:
            stretch_context(clip.text, context_length)
        config = config.with_context_length(context_length)
    image_tower = OpenClipImageTower(config.image_part())
    text_tower = OpenClipTextTower(config.text_part(), tokenizer_name=tokenizer_name_of(config))
    if clip is not None:
        image_tower.visual, text_tower.text = clip.visual, clip.text
    logit_bias = config.model.get("init_logit_bias")
    encoder = DualEncoder(
        image_tower,
        text_tower,
        label_head,
        logit_scale=math.exp(config.model.get("init_logit_scale", math.log(SOFTMAX_LOGIT_SCALE))),
        logit_bias=logit_bias,
        # the sigmoid loss wants scales above 100 (SigLIP ends near 117) and needs no limit
        max_logit_scale=100.0 if logit_bias is None else None,
    )
    if clip is not None:
        encoder.log_logit_scale.data.copy_(clip.logit_scale.data.reshape(()))
        if encoder.logit_bias is not None:
            encoder.logit_bias.data.copy_(clip.logit_bias.data.reshape(()))
    return encoder
