"""How the token sequences of several towers see each other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, final

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from clipkit.errors import ConfigError
from clipkit.models.joint.blocks import CrossBlock, SelfBlock, check_sizes
from clipkit.token_sequences import Fused, TokenSequence


class Fusion(nn.Module, ABC):
    """A network over the token sequences of two or more modalities (abstract).

    Samples of a batch are independent, and padding changes nothing.

    Attributes:
        names: Names of the modalities whose sequences it reads.
        width: Components of a token that it reads, and of the pooled vector.
        reads_padding: Whether it reads sequences with padding.
    """

    names: tuple[str, ...]
    width: int
    reads_padding: bool = True

    @property
    def returned_names(self) -> tuple[str, ...]:
        """Names of the modalities whose tokens it returns; all of ``names`` by default."""
        return self.names

    @abstractmethod
    def forward(self, tokens: Mapping[str, TokenSequence]) -> Fused:
        """Fuse sequences.

        Args:
            tokens: The sequence of each modality of ``names``, all of ``width`` components.
        """

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return the plain arguments that build this architecture again, without weights."""


@final
class CrossAttentionFusion(Fusion):
    """The tokens of one modality attend to themselves and to those of others, as in ALBEF and BLIP.

    A trained vector in front of the query tokens collects what is pooled.

    Args:
        width: Components of a token.
        depth: Number of blocks, of self-attention, cross-attention and a perceptron each.
        num_heads: Number of heads of each attention, which divides ``width``.
        query: Modality whose tokens attend.
        context: Modalities that are attended to, one sequence after the other.

    Raises:
        ConfigError: If a size is out of range, or a modality is named twice.

    Examples:
        >>> fusion = CrossAttentionFusion(width=16, depth=2, num_heads=2)
        >>> words, patches = torch.zeros(3, 5, 16), torch.zeros(3, 9, 16)
        >>> fused = fusion({"text": TokenSequence(words), "image": TokenSequence(patches)})
        >>> fused.tokens["text"].shape, fused.pooled.shape
        (torch.Size([3, 5, 16]), torch.Size([3, 16]))
    """

    def __init__(
        self,
        width: int,
        depth: int = 3,
        num_heads: int = 4,
        query: str = "text",
        context: Sequence[str] = ("image",),
    ) -> None:
        check_sizes(width, depth, num_heads)
        super().__init__()
        if isinstance(context, str):
            raise ConfigError(
                f"fusion.context: expected a list, got {context!r}; write [{context}]"
            )
        self.names = checked_names((query, *context))
        self.width = width
        self.summary = nn.Parameter(0.02 * torch.randn(width))
        self.context_norm = nn.LayerNorm(width)
        self.blocks = nn.ModuleList(CrossBlock(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self._config = {"width": width, "depth": depth, "num_heads": num_heads}

    def forward(self, tokens: Mapping[str, TokenSequence]) -> Fused:
        """Fuse sequences; the tokens of the query are returned."""
        query, *others = self.names
        states, mask = with_summary(tokens[query], self.summary)
        context, context_mask = joined([tokens[name] for name in others])
        context = self.context_norm(context)
        for block in self.blocks:
            states = block(states, mask, context, context_mask)
        states = self.norm(states)
        return Fused({query: states[:, 1:]}, states[:, 0])

    @property
    def returned_names(self) -> tuple[str, ...]:
        """The query alone."""
        return self.names[:1]

    def config(self) -> dict[str, Any]:
        """See ``Fusion.config``."""
        query, *context = self.names
        return {**self._config, "query": query, "context": context}


@final
class MergedFusion(Fusion):
    """A transformer over all sequences, one after the other, in which every token sees all.

    A trained vector in front of them collects what is pooled.

    Args:
        width: Components of a token.
        depth: Number of blocks, of self-attention and a perceptron each.
        num_heads: Number of heads of each attention, which divides ``width``.
        modalities: Modalities whose sequences are read, in this order.

    Raises:
        ConfigError: If a size is out of range, or a modality is named twice.

    Examples:
        >>> fusion = MergedFusion(width=16, depth=2, num_heads=2)
        >>> words, patches = torch.zeros(3, 5, 16), torch.zeros(3, 9, 16)
        >>> fused = fusion({"text": TokenSequence(words), "image": TokenSequence(patches)})
        >>> fused.tokens["image"].shape
        torch.Size([3, 9, 16])
    """

    def __init__(
        self,
        width: int,
        depth: int = 3,
        num_heads: int = 4,
        modalities: Sequence[str] = ("image", "text"),
    ) -> None:
        check_sizes(width, depth, num_heads)
        super().__init__()
        self.names = checked_names(modalities)
        self.width = width
        self.summary = nn.Parameter(0.02 * torch.randn(width))
        self.blocks = nn.ModuleList(SelfBlock(width, num_heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self._config = {"width": width, "depth": depth, "num_heads": num_heads}

    def forward(self, tokens: Mapping[str, TokenSequence]) -> Fused:
        """Fuse sequences; the tokens of all modalities are returned."""
        parts = [tokens[name] for name in self.names]
        values, mask = joined(parts)
        states, mask = with_summary(TokenSequence(values, mask), self.summary)
        for block in self.blocks:
            states = block(states, mask)
        states = self.norm(states)
        lengths = [part.values.shape[1] for part in parts]
        own = states[:, 1:].split(lengths, dim=1)
        return Fused(dict(zip(self.names, own, strict=True)), states[:, 0])

    def config(self) -> dict[str, Any]:
        """See ``Fusion.config``."""
        return {**self._config, "modalities": list(self.names)}


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of modalities; refuse fewer than two, equal ones, and other values."""
    given = (names,) if isinstance(names, str) else tuple(names)
    is_text = all(isinstance(name, str) for name in given)
    if not is_text or len(set(given)) < max(2, len(given)):
        raise ConfigError(f"fusion: expected at least two different modalities, got {names!r}")
    return given


def with_summary(
    sequence: TokenSequence, summary: Float[Tensor, " width"]
) -> tuple[Float[Tensor, "B more width"], Bool[Tensor, "B more"] | None]:
    """Put a vector in front of the tokens of each sample."""
    values, mask = sequence.values, sequence.mask
    # not len(), which a trace takes for a constant
    first = summary.to(values.dtype).expand(values.shape[0], 1, -1)
    if mask is not None:
        mask = nn.functional.pad(mask, (1, 0), value=True)
    return torch.cat([first, values], dim=1), mask


def joined(
    sequences: Sequence[TokenSequence],
) -> tuple[Float[Tensor, "B tokens width"], Bool[Tensor, "B tokens"] | None]:
    """Put sequences one after the other."""
    values = torch.cat([one.values for one in sequences], dim=1)
    if all(one.mask is None for one in sequences):
        return values, None
    masks = [
        torch.ones(one.values.shape[:2], dtype=torch.bool, device=values.device)
        if one.mask is None
        else one.mask
        for one in sequences
    ]
    return values, torch.cat(masks, dim=1)
