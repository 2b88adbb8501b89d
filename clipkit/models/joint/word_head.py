"""The head that predicts masked words."""

from __future__ import annotations

from typing import Any, final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from clipkit.errors import check_at_least


@final
class WordHead(nn.Module):
    """Scores all token ids from the fused state of a token, as BERT does.

    A linear layer, GELU and a norm, then a linear layer over the vocabulary (Devlin et al. 2018,
    arXiv:1810.04805, section 3.1), whose weights are its own.

    Args:
        width: Components of a fused token: ``width`` of the fusion.
        vocab_size: Number of token ids: that of the text tower.

    Examples:
        >>> WordHead(width=8, vocab_size=100)(torch.zeros(3, 8)).shape
        torch.Size([3, 100])
    """

    def __init__(self, width: int, vocab_size: int) -> None:
        check_at_least("word_head.width", width, 1)
        check_at_least("word_head.vocab_size", vocab_size, 1)
        super().__init__()
        self.width, self.vocab_size = width, vocab_size
        self.dense = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, vocab_size)
        nn.init.normal_(self.output.weight, std=0.02)
        nn.init.zeros_(self.output.bias)

    def forward(self, states: Float[Tensor, "words width"]) -> Float[Tensor, "words vocabulary"]:
        """Return the logits of each token id."""
        logits: Tensor = self.output(self.norm(F.gelu(self.dense(states))))
        return logits

    def config(self) -> dict[str, Any]:
        """Return the plain arguments that build this head again, without weights."""
        return {"width": self.width, "vocab_size": self.vocab_size}
