"""Tokenizers of open_clip, transformers and tiktoken with one interface."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Final, final

from clipkit.data.text.clip_bpe import ClipBpe, clip_bpe
from clipkit.data.text.tokenizer import Tokenizer
from clipkit.data.text.tokenizer_export import (
    canonical_in_transformers,
    clip_in_transformers,
)
from clipkit.data.text.tokenizer_loading import (
    load_of_open_clip,
    load_tiktoken,
    load_transformers,
    open_clip_models,
    open_clip_text_config,
    refuse_options,
)
from clipkit.data.text.tokenizer_objects import HuggingFaceEncoder, limit_of, refuse_mode
from clipkit.errors import ConfigError

DEFAULT_CONTEXT_LENGTH: Final = 77


@final
class OpenClipTokenizer(Tokenizer):
    """The tokenizer of a model of open_clip; the same ids, without its padding.

    Args:
        model: Name of a configuration (``open_clip.list_models()``), ``hf-hub:OWNER/NAME`` (with
            ``@REVISION`` for a branch, tag or commit), a JSON configuration, or a folder with
            ``open_clip_config.json``.
        context_length: Maximum number of ids of a caption; None for that of the configuration.

    Raises:
        ConfigError: If the name is unknown, or its files cannot be loaded.

    Examples:
        >>> OpenClipTokenizer("ViT-B-32").encode("a dog")
        [49406, 320, 1929, 49407]
    """

    def __init__(self, model: str = "ViT-B-32", context_length: int | None = None) -> None:
        config, folder = open_clip_text_config(model)
        self.name = f"open_clip:{model}"
        self.context_length = _checked_length(
            context_length or config.get("context_length", DEFAULT_CONTEXT_LENGTH)
        )
        source = config.get("hf_tokenizer_name")
        self._in_transformers: Callable[[], Any] | None = None
        body: TiktokenTokenizer | HuggingFaceEncoder | ClipBpe
        if config.get("tokenizer_type") == "tiktoken":
            encoding = config.get("tiktoken_name", "cl100k_base")
            body = TiktokenTokenizer(encoding, self.context_length)
        elif source:
            # A folder contains its tokenizer, as with open_clip's `local-dir:`.
            refuse_mode(config.get("tokenizer_mode"), model)
            wrapper = load_of_open_clip(
                str(folder or source), model, config.get("tokenizer_kwargs") or {}
            )
            body = HuggingFaceEncoder.of_open_clip(wrapper, model)
            self._in_transformers = body.in_transformers
            if (config.get("tokenizer_kwargs") or {}).get("clean") == "canonicalize":
                self._in_transformers = partial(canonical_in_transformers, body.inner)
        else:
            refuse_options(model, config)
            body = clip_bpe()
            self._in_transformers = partial(clip_in_transformers, self.context_length)
        self.vocab_size, self.pad_id, self._encode = body.vocab_size, body.pad_id, body.encode_to

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return self._encode(text, self.context_length)

    def in_transformers(self) -> Any:
        """See `Tokenizer.in_transformers`."""
        return self._in_transformers() if self._in_transformers else super().in_transformers()


@final
class TransformersTokenizer(Tokenizer):
    """A tokenizer of the library transformers.

    Args:
        path: Local folder, or name on the Hugging Face hub.
        context_length: Maximum number of ids of a caption; None for the tokenizer's limit.

    Raises:
        ConfigError: If it cannot be loaded, or has neither limit nor padding id.
    """

    def __init__(self, path: str, context_length: int | None = None) -> None:
        self.name = f"transformers:{path}"
        inner = load_transformers(path, self.name)
        self._body = HuggingFaceEncoder(inner, self.name)
        self.context_length = _checked_length(context_length or limit_of(inner, self.name))
        self.vocab_size, self.pad_id = self._body.vocab_size, self._body.pad_id

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return self._body.encode_to(text, self.context_length)

    def in_transformers(self) -> Any:
        """See `Tokenizer.in_transformers`."""
        return self._body.inner


@final
class TiktokenTokenizer(Tokenizer):
    """An encoding of OpenAI's tiktoken, with end, padding and start ids after its vocabulary.

    The order of the three ids is that of open_clip's tiktoken models: weights are exchangeable.

    Args:
        encoding: Name of the encoding, for example ``cl100k_base``.
        context_length: Maximum number of ids of a caption, including start and end.

    Raises:
        ConfigError: If tiktoken is missing, or the encoding is unknown or cannot be fetched.
    """

    def __init__(
        self, encoding: str = "cl100k_base", context_length: int = DEFAULT_CONTEXT_LENGTH
    ) -> None:
        self.name = f"tiktoken:{encoding}"
        self.context_length = _checked_length(context_length)
        self._inner = load_tiktoken(encoding)
        self._end_id: int = self._inner.n_vocab
        self.pad_id = self._end_id + 1
        self._start_id = self._end_id + 2
        self.vocab_size = self._end_id + 3

    def encode(self, text: str) -> list[int]:
        """See `Tokenizer.encode`."""
        return self.encode_to(text, self.context_length)

    def encode_to(self, text: str, context_length: int) -> list[int]:
        """Do the same as ``encode`` with another limit."""
        body = self._inner.encode_ordinary(text)[: context_length - 2]
        return [self._start_id, *body, self._end_id]


def tokenizer_from_name(name: str, context_length: int | None = None) -> Tokenizer:
    """Create the tokenizer that a ``Tokenizer.name`` describes.

    Args:
        name: ``open_clip:MODEL``, ``transformers:PATH`` or ``tiktoken:ENCODING``.
        context_length: Maximum number of ids of a caption; None for the tokenizer's limit.

    Raises:
        ConfigError: If the name is none of these.

    Examples:
        >>> tokenizer_from_name("open_clip:ViT-B-32", context_length=32).context_length
        32
    """
    library, _, rest = name.partition(":")
    if library == "open_clip" and rest:
        return OpenClipTokenizer(rest, context_length)
    if library == "transformers" and rest:
        return TransformersTokenizer(rest, context_length)
    if library == "tiktoken" and rest:
        return TiktokenTokenizer(rest, context_length or DEFAULT_CONTEXT_LENGTH)
    hint = f"; did you mean open_clip:{name}?" if name in open_clip_models() else ""
    raise ConfigError(
        f"tokenizer {name!r}: expected open_clip:MODEL, transformers:PATH or tiktoken:ENCODING"
        f"{hint}"
    )


def _checked_length(context_length: int) -> int:
    if context_length < 3:
        raise ConfigError(
            f"context_length: expected at least 3 (start, one token, end), got {context_length}"
        )
    return context_length
