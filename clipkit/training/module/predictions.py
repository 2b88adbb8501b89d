"""What ``clipkit predict`` returns of a batch: embeddings and matching logits, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.types import Embeddings

PRESENT: Final = "_present"
"""Suffix of the name of a mask: which samples have a modality."""
MATCHING: Final = "matching"
"""Name of the logits that the modalities of a sample belong together."""


def predicted(embeddings: Embeddings, towers: Sequence[str]) -> dict[str, Tensor]:
    """Return the embeddings of each modality by name, and masks of those that samples may lack.

    Of a joint encoder also the matching logit of each sample, as ``matching``, unless a modality
    that is fused has no input.

    Args:
        embeddings: Output of an encoder.
        towers: Names of its towers.

    Returns:
        For example ``image``, ``text``, ``sound`` and ``sound_present``. Embeddings and logits are
        zeros where the mask is False; without a mask every sample has the modality.

    Raises:
        ConfigError: If there is none, because an encoder of texts alone got no captions.

    Examples:
        >>> embeddings = encoder.example_embeddings()
        >>> list(predicted(embeddings, ["image", "text"]))
        ['image', 'text']
    """
    given: dict[str, tuple[Float[Tensor, "B D"], Bool[Tensor, " B"] | None]] = {}
    if "image" in towers:
        given["image"] = embeddings.image, embeddings.image_present
    if embeddings.text is not None:
        given["text"] = embeddings.text, embeddings.text_present
    for name, modality in (embeddings.modalities or {}).items():
        given[name] = modality.values, modality.present
    if not given:
        raise ConfigError(
            f"predict: expected an input for one of the towers {', '.join(towers)}, got no captions"
        )
    found = {}
    for name, (values, present) in given.items():
        if present is not None:
            values = torch.where(present[:, None], values, torch.zeros_like(values))
            found[f"{name}{PRESENT}"] = present.cpu()
        found[name] = values.cpu()
    return {**found, **_matched(embeddings)}


def _matched(embeddings: Embeddings) -> dict[str, Tensor]:
    """Return the matching logit of each sample, and a mask where some lack a modality."""
    joint, tokens = embeddings.joint, embeddings.tokens or {}
    if joint is None or not {*joint.fused_names} <= tokens.keys():
        return {}
    logits = joint.match(joint.fuse(tokens).pooled).float()
    masks = [embeddings.of(name)[1] for name in joint.fused_names]
    given = [mask for mask in masks if mask is not None]
    if not given:
        return {MATCHING: logits.cpu()}
    present = torch.stack(given).all(0)
    logits = torch.where(present, logits, torch.zeros_like(logits))
    return {f"{MATCHING}{PRESENT}": present.cpu(), MATCHING: logits.cpu()}
