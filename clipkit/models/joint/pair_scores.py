"""Logits of pairs whose tokens were read before."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.models.joint.joint_encoder import JointEncoder
from clipkit.token_sequences import TokenSequence


@torch.no_grad()
def pair_scores(
    joint: JointEncoder,
    images: TokenSequence,
    texts: TokenSequence,
    pairs: Int64[Tensor, "pairs 2"],
    batch_size: int = 64,
    first: str = "image",
    second: str = "text",
) -> Float[Tensor, " pairs"]:
    """Return the logit that image and text of each pair belong together.

    Args:
        joint: Encoder in evaluation mode that fuses images and texts, and nothing else; or the two
            modalities that are named.
        images: Tokens of images, or of the modality ``first``, on any device.
        texts: Tokens of texts, or of the modality ``second``, on any device.
        pairs: Row of the image and row of the text of each pair.
        batch_size: Pairs per forward pass.
        first: Modality in place of images.
        second: Modality in place of texts.

    Returns:
        Logits in float32, on the device of ``pairs``.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=1, num_heads=2))
        >>> size = encoder.image_tower.image_size
        >>> image = joint.read_image(torch.zeros(1, 3, size, size, dtype=torch.uint8)).tokens
        >>> text = joint.read_text(torch.ones(2, 5, dtype=torch.int64)).tokens
        >>> pair_scores(joint, image, text, torch.tensor([[0, 0], [0, 1]])).shape
        torch.Size([2])
    """
    device = joint.log_logit_scale.device
    parts = [torch.empty(0, device=pairs.device)]
    for part in torch.split(pairs, batch_size):
        tokens = {
            first: _on(images.rows(part[:, 0].to(images.values.device)), device),
            second: _on(texts.rows(part[:, 1].to(texts.values.device)), device),
        }
        parts.append(joint.match(joint.fuse(tokens).pooled).float().to(pairs.device))
    return torch.cat(parts)


def reranking_scores(
    joint: JointEncoder,
    similarities: Float[Tensor, " pairs"],
    logits: Float[Tensor, " pairs"],
    first: str = "image",
    second: str = "text",
) -> Float[Tensor, " pairs"]:
    """Return scores that order candidates of a query by what dual encoder and fusion know.

    ``MatchingLoss`` draws negatives with a probability proportional to exp(scale * cosine). The
    best logit against such negatives is the logarithm of how much more probable a candidate is than
    the dual encoder says (a ratio of densities: Gutmann and Hyvärinen 2010, section 2.2), so that
    the probability of a candidate is proportional to exp(scale * cosine + logit).

    Args:
        joint: The encoder.
        similarities: Cosines of image and text of each pair, by the same encoder.
        logits: Their matching logits; see ``pair_scores``.
        first: Modality in place of images.
        second: Modality in place of texts.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=1, num_heads=2))
        >>> reranking_scores(joint, torch.tensor([0.3, 0.1]), torch.tensor([-1.0, 2.0])).shape
        torch.Size([2])
    """
    scale = joint.scale_between(first, second).detach().to(similarities)
    return scale * similarities + logits.to(similarities)


def _on(sequence: TokenSequence, device: torch.device) -> TokenSequence:
    mask = None if sequence.mask is None else sequence.mask.to(device)
    return TokenSequence(sequence.values.to(device), mask)
