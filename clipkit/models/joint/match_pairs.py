"""Matching logits of images and texts as they are."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.errors import ConfigError, check_at_least
from clipkit.models.evaluating import evaluating
from clipkit.models.inputs import ImageInput, pixel_batches, token_batches
from clipkit.models.joint.joint_encoder import JointEncoder


def match_pairs(
    joint: JointEncoder,
    images: Sequence[ImageInput],
    texts: Sequence[str],
    batch_size: int = 64,
) -> Float[Tensor, " N"]:
    """Return the logit that each image and the text of the same position belong together.

    In evaluation mode and without gradients; images and texts are prepared as the towers were
    trained. ``pair_scores`` scores any pairs of images and texts whose tokens were read before.

    Args:
        joint: Encoder that fuses images and texts, and nothing else, on any device.
        images: Images of Pillow, or paths of image files.
        texts: As many texts; longer ones are truncated to the text tower's context length.
        batch_size: Pairs per forward pass.

    Returns:
        Logits in float32 on the CPU; ``torch.sigmoid`` of one is the probability of a match, among
        pairs as they were trained.

    Raises:
        ConfigError: If there are not as many texts as images, an argument has another type, or the
            encoder fuses other modalities.
        DataError: If an image cannot be read.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=1, num_heads=2))
        >>> match_pairs(joint, ["dog.jpg", "dog.jpg"], ["a dog", "a blue square"]).shape
        torch.Size([2])
    """
    check_at_least("batch_size", batch_size, 1)
    if {*joint.fused_names} != {"image", "text"}:
        raise ConfigError(
            f"encoder: expected a fusion of images and texts alone, got one of "
            f"{', '.join(joint.fused_names)}"
        )
    are_lists = not isinstance(images, ImageInput) and not isinstance(texts, str)
    if are_lists and len(images) != len(texts):
        raise ConfigError(f"texts: expected one per image, {len(images)}, got {len(texts)}")
    device, logits = joint.log_logit_scale.device, [torch.empty(0)]
    with evaluating(joint):
        pixels = pixel_batches(joint.image_tower, images, batch_size)
        tokens = token_batches(joint.text_tower, texts, batch_size)
        for (seen, grids), written in zip(pixels, tokens, strict=True):
            image = joint.read_image(seen.to(device), None if grids is None else grids.to(device))
            text = joint.read_text(written.to(device))
            fused = joint.fuse({"image": image.tokens, "text": text.tokens})
            logits.append(joint.match(fused.pooled).float().cpu())
    return torch.cat(logits)
