"""The interface of tokenizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from clipkit.errors import ConfigError


class Tokenizer(ABC):
    """Captions to token ids.

    Attributes:
        name: What `tokenizer_from_name` makes an equal tokenizer from.
        context_length: Most ids that one caption may have, start and end included.
        vocab_size: Number of ids.
        pad_id: Fills a batch behind the shorter captions.
    """

    name: str
    context_length: int
    vocab_size: int
    pad_id: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of one caption: start and end included, cut to context_length, no padding."""

    def in_transformers(self) -> Any:
        """The same tokenizer as an object of the library transformers.

        Raises:
            ConfigError: If transformers has none that gives these ids.
        """
        raise ConfigError(
            f"tokenizer {self.name}: transformers has none like it; use --format open_clip or "
            f"safetensors to export an encoder with this tokenizer"
        )

    def pad(self, captions: Sequence[Sequence[int]]) -> Int64[Tensor, "B S"]:
        """A batch of encoded captions, as long as the longest of them."""
        longest = max(map(len, captions), default=0)
        tokens = torch.full((len(captions), longest), self.pad_id, dtype=torch.int64)
        for row, ids in enumerate(captions):
            tokens[row, : len(ids)] = torch.tensor(ids, dtype=torch.int64)
        return tokens

    def __call__(self, texts: str | Sequence[str]) -> Int64[Tensor, "B S"]:
        """Encode and pad.

        Examples:
            >>> OpenClipTokenizer("ViT-B-32")(["a dog", "a small dog"]).shape
            torch.Size([2, 5])
        """
        return self.pad(
            [self.encode(text) for text in ([texts] if isinstance(texts, str) else texts)]
        )
