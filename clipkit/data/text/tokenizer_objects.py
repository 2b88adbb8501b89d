"""Tokenizers of open_clip and transformers, given as objects."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, final

from clipkit.data.text.tokenizer import Encoder
from clipkit.data.text.tokenizer_loading import padding_id
from clipkit.errors import ConfigError

LONGEST_SANE_CONTEXT: Final = 100_000
"""transformers uses 1e30 for a tokenizer without a limit."""


def as_encoder(tokenizer: Encoder | Callable[..., Any]) -> Encoder:
    """Return a tokenizer as a stream uses it: one text at a time, without padding.

    Examples:
        >>> import open_clip
        >>> as_encoder(open_clip.get_tokenizer("ViT-B-32")).encode("a dog")
        [49406, 320, 1929, 49407]
    """
    if isinstance(tokenizer, Encoder):
        return tokenizer
    name = type(tokenizer).__name__
    if hasattr(tokenizer, "clean_fn") and hasattr(tokenizer, "tokenizer"):
        return HuggingFaceEncoder.of_open_clip(tokenizer, name)
    if callable(tokenizer) and hasattr(tokenizer, "pad_token_id"):
        return HuggingFaceEncoder(tokenizer, name, limit_of(tokenizer, name))
    if callable(tokenizer) and hasattr(tokenizer, "eot_token_id"):
        return PaddedEncoder(tokenizer)
    raise ConfigError(
        f"tokenizer: expected a tokenizer of clipkit.data such as OpenClipTokenizer, or an object "
        f"of open_clip or transformers, got {name}; or add a pad_id and a method "
        f"encode(text) -> list of ids"
    )


def refuse_mode(mode: str | None, name: str) -> None:
    """Refuse open_clip's modes that put a token after the padding."""
    if mode:
        raise ConfigError(
            f"tokenizer of {name}: mode {mode!r} puts a token after the padding, which captions of "
            f"varying length cannot have; choose another model"
        )


def limit_of(tokenizer: Any, name: str) -> int:
    """Return the longest input of a transformers tokenizer, in tokens."""
    limit = tokenizer.model_max_length
    if limit > LONGEST_SANE_CONTEXT:
        raise ConfigError(
            f"tokenizer {name}: it has no length limit; set its model_max_length, or "
            f"TransformersTokenizer(context_length=...), to a number such as 77"
        )
    return int(limit)


@final
class HuggingFaceEncoder:
    """A transformers tokenizer, alone or inside open_clip's wrapper.

    Args:
        inner: The tokenizer of transformers.
        name: Name of the tokenizer in messages.
        context_length: Largest number of ids of a text; None if each call names it.
        clean: Function that open_clip applies to a text first; None for none.
        stripped: Id that open_clip replaces by 0; None for none.

    Raises:
        ConfigError: If it has no padding id.
    """

    def __init__(
        self,
        inner: Any,
        name: str,
        context_length: int | None = None,
        clean: Callable[[str], str] | None = None,
        stripped: int | None = None,
    ) -> None:
        self.inner = inner
        self.pad_id = padding_id(inner, name)
        self._context_length = context_length
        self._clean = clean
        self._stripped = stripped

    @classmethod
    def of_open_clip(cls, wrapper: Any, name: str) -> HuggingFaceEncoder:
        """Make an encoder of open_clip's wrapper."""
        refuse_mode(getattr(wrapper, "tokenizer_mode", None), name)
        # CLIPA's models were trained with padding instead of the separator.
        strips = getattr(wrapper, "strip_sep_token", False)
        stripped = wrapper.tokenizer.sep_token_id if strips else None
        return cls(wrapper.tokenizer, name, wrapper.context_length, wrapper.clean_fn, stripped)

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return len(self.inner)

    def in_transformers(self) -> Any:
        """Return the tokenizer of transformers."""
        return self.inner

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text, without padding."""
        return self.encode_to(text, self._context_length)

    def encode_to(self, text: str, context_length: int | None) -> list[int]:
        """Return the ids of one text, at most ``context_length`` of them."""
        text = text if self._clean is None else self._clean(text)
        encoded = self.inner(text, truncation=True, max_length=context_length)
        ids = [0 if token == self._stripped else int(token) for token in encoded["input_ids"]]
        while self._stripped is not None and ids and ids[-1] == self.pad_id:
            ids.pop()
        return ids


@final
class PaddedEncoder:
    """open_clip's tokenizer of CLIP, which pads every text with zeros."""

    pad_id = 0

    def __init__(self, tokenizer: Callable[[Sequence[str]], Any]) -> None:
        self._tokenizer = tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of one text; the last one is the end, which is not 0."""
        ids: list[int] = self._tokenizer([text])[0].tolist()
        while ids and ids[-1] == self.pad_id:
            ids.pop()
        return ids
