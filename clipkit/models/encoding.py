"""Embed texts and images as they are, with the towers of any encoder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.models.evaluating import evaluating
from clipkit.models.inputs import ImageInput, pixel_batches, token_batches
from clipkit.models.tower_encoder import TowerEncoder

_Inputs = TypeVar("_Inputs")


def encode_batches(
    encoder: TowerEncoder,
    batches: Iterable[_Inputs],
    encode: Callable[[_Inputs], Float[Tensor, "B D"]],
) -> Float[Tensor, "N D"]:
    """Embed batches in evaluation mode and without gradients; float32 on the CPU."""
    with evaluating(encoder):
        parts = [encode(batch).float().cpu() for batch in batches]
    return torch.cat([torch.empty(0, encoder.embedding_dim), *parts])


def encode_texts(
    encoder: TowerEncoder, texts: Sequence[str], batch_size: int
) -> Float[Tensor, "N D"]:
    """Embed texts, which the text tower's tokenizer encodes."""
    device = encoder.log_logit_scale.device
    tokens = token_batches(encoder.text_tower, texts, batch_size)
    return encode_batches(encoder, tokens, lambda batch: encoder.encode_text(batch.to(device)))


def encode_images(
    encoder: TowerEncoder, images: Sequence[ImageInput], batch_size: int
) -> Float[Tensor, "N D"]:
    """Embed images, resized and normalised as the image tower was trained."""
    device = encoder.log_logit_scale.device
    return encode_batches(
        encoder,
        pixel_batches(encoder.image_tower, images, batch_size),
        lambda batch: encoder.encode_image(
            batch[0].to(device), None if batch[1] is None else batch[1].to(device)
        ),
    )
