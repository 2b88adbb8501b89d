"""The interface of tokenizers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from clipkit.errors import ConfigError


@runtime_checkable
class Encoder(Protocol):
    """Part of a tokenizer that a stream needs."""

    @property
    def pad_id(self) -> int:
        """Token id of padding."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the ids of a caption with start and end, truncated and not padded."""
        ...


class Tokenizer(ABC):
    """Encodes captions as token ids (abstract).

    Attributes:
        name: Name from which ``tokenizer_from_name`` creates an equal tokenizer.
        context_length: Maximum number of ids of a caption, including start and end.
        vocab_size: Number of ids.
        pad_id: Token id of padding.
    """

    name: str
    context_length: int
    vocab_size: int
    pad_id: int

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Return the ids of a caption with start and end, at most context_length, not padded."""

    def in_transformers(self) -> Any:
        """Return the same tokenizer as an object of the library transformers.

        Raises:
            ConfigError: If transformers has no tokenizer with these ids.
        """
        raise ConfigError(
            f"tokenizer {self.name}: transformers has none like it; use --format open_clip or "
            f"safetensors to export an encoder with this tokenizer"
        )

    def pad(self, captions: Sequence[Sequence[int]]) -> Int64[Tensor, "B S"]:
        """Stack encoded captions, padded to the longest."""
        return pad_tokens([torch.tensor(ids, dtype=torch.int64) for ids in captions], self.pad_id)

    def __call__(self, texts: str | Sequence[str]) -> Int64[Tensor, "B S"]:
        """Encode and pad.

        Examples:
            >>> OpenClipTokenizer("ViT-B-32")(["a dog", "a small dog"]).shape
            torch.Size([2, 5])
        """
        return self.pad(list(map(self.encode, [texts] if isinstance(texts, str) else texts)))


def pad_tokens(sequences: Sequence[Int64[Tensor, " S"]], pad_id: int) -> Int64[Tensor, "B S"]:
    """Stack sequences of token ids, padded to the longest."""
    if not sequences:
        return torch.empty((0, 0), dtype=torch.int64)
    return pad_sequence(list(sequences), batch_first=True, padding_value=pad_id)
