"""Sequences of tokens that towers read, and what a joint encoder makes of several of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from jaxtyping import Bool, Float, Int64
from torch import Tensor


@dataclass(slots=True)
class TokenSequence:
    """Tokens of one modality of a batch: patches of images, words of texts, frames of sounds.

    Args:
        values: States of the tokens, before the tower pools them.
        mask: Which tokens belong to the sample, and are not padding; None for all.

    Examples:
        >>> TokenSequence(torch.zeros(3, 5, 8)).rows(torch.tensor([2, 0])).values.shape
        torch.Size([2, 5, 8])
    """

    values: Float[Tensor, "B tokens width"]
    mask: Bool[Tensor, "B tokens"] | None = None

    def rows(self, rows: Int64[Tensor, " rows"] | slice) -> TokenSequence:
        """Return the sequences of some samples.

        Args:
            rows: Positions of the samples.
        """
        return TokenSequence(self.values[rows], None if self.mask is None else self.mask[rows])


@dataclass(slots=True)
class Fused:
    """Output of a fusion.

    Args:
        tokens: States of the tokens that saw the other modality, by the name of their own.
        pooled: One vector per sample.
    """

    tokens: dict[str, Float[Tensor, "B tokens width"]]
    pooled: Float[Tensor, "B width"]


class JointStage(Protocol):
    """What terms of the objective call of a joint encoder (``clipkit.models.JointEncoder``)."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids that ``predict_words`` scores; 0 without a word head."""
        ...

    @property
    def fused_names(self) -> tuple[str, ...]:
        """Names of the modalities that are fused."""
        ...

    @property
    def returned_names(self) -> tuple[str, ...]:
        """Names of the modalities whose fused tokens ``fuse`` returns."""
        ...

    def fuse(self, tokens: Mapping[str, TokenSequence]) -> Fused:
        """Let the tokens of the modalities of each sample see each other."""
        ...

    def match(self, pooled: Float[Tensor, "B width"]) -> Float[Tensor, " B"]:
        """Return the logit that the modalities of each sample belong together."""
        ...

    @property
    def num_fused_classes(self) -> int:
        """Number of classes that ``classify_fused`` scores; 0 without a head on the fusion."""
        ...

    def classify_fused(self, pooled: Float[Tensor, "B width"]) -> Float[Tensor, "B C"]:
        """Return the logits of the classes of the fused pairs."""
        ...

    def read_text_tokens(self, tokens: Int64[Tensor, "B S"]) -> TokenSequence:
        """Run the text tower on token ids, such as partly masked ones."""
        ...

    def predict_words(
        self, states: Float[Tensor, "words width"]
    ) -> Float[Tensor, "words vocabulary"]:
        """Return the logits of the token ids behind fused states of text tokens."""
        ...

    def zero(self) -> Float[Tensor, ""]:
        """Return 0, with a gradient of 0 for each parameter outside of the towers."""
        ...
