"""Relevance of patches to words, from the attention of a fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.errors import ConfigError, check_range
from clipkit.models.explanation.recording import Attention
from clipkit.models.joint.fusion import CrossAttentionFusion, Fusion, MergedFusion

_PER_CROSS_BLOCK: Final = 2  # self-attention, then cross-attention


class WordsAndPatches(NamedTuple):
    """Where words attend to patches, or patches to words, in the attention of a fusion.

    Attributes:
        words: Positions of the words among the queries or the keys.
        patches: Positions of the patches among the others; also among the keys of the summary.
        words_attend: Whether the words are the queries.
    """

    words: list[int]
    patches: list[int]
    words_attend: bool

    def of(
        self,
        between: Float[Tensor, "queries keys"],
        pooling: Float[Tensor, "queries all_keys"],
    ) -> Float[Tensor, "1_and_words patches"]:
        """Select the relevance of each patch to the summary, and to each word.

        Args:
            between: Relevance by the attention between words and patches.
            pooling: Relevance by the attention of the summary, in the first row, to patches.
        """
        summary = pooling[:1, self.patches]
        if self.words_attend:
            return torch.cat([summary, between[self.words][:, self.patches]])
        return torch.cat([summary, between[self.patches][:, self.words].T])


class Layers(NamedTuple):
    """Attention of one sample, of each layer of a fusion.

    Attributes:
        between: Attention between words and patches.
        pooling: Attention of the summary to patches, which is the same unless patches are queries.
    """

    between: list[Tensor]
    pooling: list[Tensor]


def check_fusion(fusion: Fusion, layer: int | None) -> None:
    """Refuse a fusion whose attention does not show what words look at.

    Args:
        fusion: The fusion.
        layer: Number of the layer that is read, from 0; None for all.

    Raises:
        ConfigError: If it is none of clipkit's with attention, has one layer, in which the logit
            depends on the attention of the summary alone, or ``layer`` is the last or none of them.
    """
    if not isinstance(fusion, CrossAttentionFusion | MergedFusion):
        raise ConfigError(
            f"fusion: expected CrossAttentionFusion or MergedFusion, whose attention is read, got "
            f"{type(fusion).__name__}; use the method 'occlusion'"
        )
    if len(fusion.blocks) == 1:
        raise ConfigError(
            "fusion: expected at least 2 layers, got 1, in which the logit does not depend on what "
            "the words attend to; use the method 'occlusion'"
        )
    if layer is not None:
        # what the words of the last one attend to does not reach the summary, which is pooled
        check_range("layer", layer, 0, len(fusion.blocks) - 2)


def words_and_patches(fusion: Fusion, name: str, lengths: Mapping[str, int]) -> WordsAndPatches:
    """Return where words and patches meet in the attention of a fusion.

    Args:
        fusion: Fusion of texts and another modality; see ``check_fusion``.
        name: Name of the other modality.
        lengths: Number of tokens of each modality.
    """
    starts = {"text": 1, name: 1}  # after the summary
    if isinstance(fusion, MergedFusion):
        starts[fusion.names[1]] += lengths[fusion.names[0]]
    else:
        starts[fusion.names[1]] = 0
    words, patches = (
        list(range(starts[part], starts[part] + lengths[part])) for part in ("text", name)
    )
    return WordsAndPatches(words, patches, words_attend(fusion))


def layers_of(fusion: Fusion, recorded: Sequence[Attention]) -> Layers:
    """Select the attention that shows what words look at.

    Args:
        fusion: The fusion.
        recorded: All attentions of its forward pass, of one sample.
    """
    weights = [attention.weights for attention in recorded]
    if not isinstance(fusion, CrossAttentionFusion):
        return Layers(weights, weights)
    own, between = weights[::_PER_CROSS_BLOCK], weights[1::_PER_CROSS_BLOCK]
    return Layers(between, between if words_attend(fusion) else own)


def words_attend(fusion: Fusion) -> bool:
    """Return whether words are among the queries of a fusion's attention."""
    return isinstance(fusion, MergedFusion) or fusion.names[0] == "text"


def attended(
    attentions: Sequence[Float[Tensor, "heads queries keys"]],
    gradients: Sequence[Float[Tensor, "heads queries keys"]],
) -> Float[Tensor, "queries keys"]:
    """Compute the relevance of each key to each query by Grad-CAM over attention.

    The positive part of attention times gradient, its mean over the heads, and the sum over the
    layers (as in Li et al. 2021, arXiv:2107.07651, section 6, which use one layer).

    Args:
        attentions: Probabilities of each layer.
        gradients: Derivatives of the logit with respect to ``attentions``.

    Examples:
        >>> attention = torch.tensor([[[0.25, 0.75]], [[0.5, 0.5]]])
        >>> gradient = torch.tensor([[[2.0, -1.0]], [[0.0, 1.0]]])
        >>> attended([attention], [gradient])
        tensor([[0.2500, 0.2500]])
    """
    return torch.stack(
        [(a * g).clamp(min=0).mean(0) for a, g in zip(attentions, gradients, strict=True)]
    ).sum(0)
