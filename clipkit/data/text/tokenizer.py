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
    """What a stream needs of a tokenizer."""

    @property
    def pad_id(self) -> int:
        """Id that fills the rest of short captions."""
        ...

    def encode(self, text: str) -> list[int]:
        """Return the token ids of a caption: complete, cut to the context length, not padded."""
        ...


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
        return pad_tokens([torch.tensor(ids, dtype=torch.int64) for ids in captions], self.pad_id)

    def __call__(self, texts: str | Sequence[str]) -> Int64[Tensor, "B S"]:
        """Encode and pad.

        Examples:
            >>> OpenClipTokenizer("ViT-B-32")(["a dog", "a small dog"]).shape
            torch.Size([2, 5])
        """
        return self.pad(
            [self.encode(text) for text in ([texts] if isinstance(texts, str) else texts)]
        )


def pad_tokens(sequences: Sequence[Int64[Tensor, " S"]], pad_id: int) -> Int64[Tensor, "B S"]:
    """Stack sequences of token ids, padded to the longest."""
    if not sequences:
        return torch.empty((0, 0), dtype=torch.int64)
    return pad_sequence(list(sequences), batch_first=True, padding_value=pad_id)
