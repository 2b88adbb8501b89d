"""Which parts of an input, and which words of a text, carry their similarity."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import NamedTuple, Protocol, final

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.errors import ConfigError, MetricError
from clipkit.models.explanation.gradients import with_gradients
from clipkit.models.explanation.occlusion import occlude_image, occlude_words
from clipkit.models.explanation.recording import Attention, ForwardRecorder
from clipkit.models.explanation.relevance import as_grid, grad_cam, is_chain, roll_out, scaled
from clipkit.models.explanation.words import find_tokens, find_words
from clipkit.models.inputs import token_batches, tokenizer_of
from clipkit.models.towers.base import TextTower, Tower


class WordWeight(NamedTuple):
    """A word of a text and its share in a similarity.

    Attributes:
        word: The word, as written.
        weight: From 0 to 1, which is that of the word that carries most.
    """

    word: str
    weight: float


class Explained(NamedTuple):
    """Relevance before scaling."""

    heat_map: Float[Tensor, "rows columns"]
    words: Float[Tensor, " words"]
    score: float
    method: str


@final
@dataclass(frozen=True, slots=True)
class ExplainedInput:
    """An image or a sound, as a tower reads it.

    Args:
        name: Name of its modality, for messages.
        tower: The tower.
        values: Normalised values of one sample, which have rows and columns in their last axes.
        grids: Rows and columns of patches; None without patches.
        embed: Function from values and grids to unit-norm embeddings.
        token_grid: Rows and columns of a transformer's tokens; None for a square, or for ``grids``.
    """

    name: str
    tower: Tower
    values: Float[Tensor, "B channels H W"] | Float[Tensor, "B patches values"]
    grids: Int64[Tensor, "B 2"] | None
    embed: Callable[[Tensor, Int64[Tensor, "B 2"] | None], Float[Tensor, "B D"]]
    token_grid: tuple[int, int] | None = None


class TextEncoder(Protocol):
    """What an explanation needs of an encoder, in addition to the tower of the input."""

    text_tower: TextTower

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed texts."""


class Match(NamedTuple):
    """An input and a text, as an encoder reads them."""

    encoder: TextEncoder
    input: ExplainedInput
    text: str

    def explained(self, method: str) -> Explained:
        """Explain by a method; see ``explain``."""
        return self.by_occlusion() if method == "occlusion" else self.by_gradients(method)

    def by_occlusion(self) -> Explained:
        """Measure the drop of the similarity without each cell and each word."""
        given = self.input
        embedding = given.embed(given.values, given.grids)
        text = self._text_embeddings([self.text])
        score = checked_score(embedding @ text.T, given.name)
        heat_map = occlude_image(
            given.values, given.grids, lambda *part: given.embed(*part) @ text[0]
        )
        words = find_words(self.text)
        read = [n for n, tokens in enumerate(self._tokens()) if tokens.start < tokens.stop]
        weights = text.new_zeros(len(words))
        weights[read] = occlude_words(
            self.text,
            [words[n] for n in read],
            lambda texts: self._text_embeddings(texts) @ embedding[0],
        )
        return Explained(heat_map, weights, score, "occlusion")

    def by_gradients(self, method: str) -> Explained:
        """Compute relevance from attention or a feature map, and their gradients."""
        given = self.input
        with with_gradients():
            values = given.values.clone().detach().requires_grad_()
            with ForwardRecorder() as seen:
                embedding = given.embed(values, given.grids)
            with ForwardRecorder() as read:
                text = self._text_embeddings([self.text])
            similarity = (embedding * text).sum()
            score = checked_score(similarity, given.name)
            method = _choose(seen, method, given)
            heat_map: Tensor | None
            if method == "grad_cam":
                heat_map = _map_relevance(seen, similarity)
            else:
                patches = _token_relevance(seen, similarity, values)
                heat_map = (
                    None if patches is None else as_grid(patches, given.grids, given.token_grid)
                )
            tokens = _token_relevance(read, similarity, None)
        if heat_map is None:
            raise _refusal(given.name, given.tower, "'grad_cam' or 'occlusion'")
        if tokens is None:
            raise _refusal("text", self.encoder.text_tower, "'occlusion'")
        words = torch.stack([tokens[place].sum() for place in self._tokens()])
        return Explained(heat_map, words, score, method)

    def words(self, weights: Float[Tensor, " words"]) -> tuple[WordWeight, ...]:
        """Return the words of the text with scaled weights."""
        words = [self.text[place] for place in find_words(self.text)]
        return tuple(map(WordWeight, words, scaled(weights).tolist()))

    def _tokens(self) -> list[slice]:
        """Return the position of the tokens of each word; a truncated word has none."""
        return find_tokens(self.text, tokenizer_of(self.encoder.text_tower).encode)

    def _text_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "texts D"]:
        (tokens,) = token_batches(self.encoder.text_tower, texts, len(texts))
        return self.encoder.encode_text(tokens.to(self.input.values.device))


def checked_score(score: Float[Tensor, "*one"], name: str, measure: str = "similarity") -> float:
    """Return a score as a number; refuse one that is not finite.

    Args:
        score: The score of a match.
        name: Modality of the input, for the message.
        measure: What the score is, for the message.
    """
    value = float(score.detach())
    if not isfinite(value):
        raise MetricError(
            f"explain: the {measure} is {value}; the weights of the encoder or the values of the "
            f"{name} are not finite"
        )
    return value


def _choose(seen: ForwardRecorder, method: str, given: ExplainedInput) -> str:
    """Return the method that was requested, or for "auto" the one that fits the tower.

    Grad-CAM needs a map near the output, and rollout layers of self-attention; attention pooling
    after convolutions is one such layer.
    """
    name = type(given.tower).__name__
    if seen.feature_map is None and not seen.attentions:
        raise ConfigError(
            f"{given.name}_tower: {name} has neither attention nor convolutions that gradients "
            f"pass through; use the method 'occlusion'"
        )
    layers = sum(attention.is_self_attention for attention in seen.attentions)
    rolls_out = seen.ends_with_attention and layers > 1 and is_chain(seen.attentions)
    has_map = seen.feature_map is not None and not rolls_out
    if method == "grad_cam" and not has_map:
        raise ConfigError(
            f"method: {name} has no convolution near its output, which 'grad_cam' needs; use "
            f"'attention' or 'occlusion'"
        )
    if method == "auto":
        return "grad_cam" if has_map else "attention"
    return method


def _refusal(kind: str, tower: Tower, alternatives: str) -> ConfigError:
    return ConfigError(
        f"{kind}_tower: {type(tower).__name__} has no attention over all tokens that gradients "
        f"pass through (none at all, or within windows); use the method {alternatives}"
    )


def _map_relevance(seen: ForwardRecorder, similarity: Tensor) -> Float[Tensor, "rows columns"]:
    assert seen.feature_map is not None, "the method is chosen by it"
    (gradient,) = torch.autograd.grad(similarity, seen.feature_map, retain_graph=True)
    return grad_cam(seen.feature_map[0], gradient[0])


def _token_relevance(
    recorder: ForwardRecorder, similarity: Tensor, inputs: Tensor | None
) -> Float[Tensor, " tokens"] | None:
    """Return the relevance of each token; None if attention cannot be rolled out."""
    weights = [attention.weights for attention in recorder.attentions]
    if not weights:
        return None
    gradients = torch.autograd.grad(similarity, weights, retain_graph=True, allow_unused=True)
    used = [
        (attention, gradient)
        for attention, gradient in zip(recorder.attentions, gradients, strict=True)
        if gradient is not None  # the others are those of poolers for captions
    ]
    if not is_chain([attention for attention, _ in used]):
        return None
    weights = [attention.weights[0] for attention, _ in used]
    reads_tokens = [_reads_tokens(attention, inputs) for attention, _ in used]
    for layer, has_tokens in zip(weights, reads_tokens, strict=True):
        num_queries, num_keys = layer.shape[1:]
        if has_tokens and num_queries not in (1, num_keys):  # which tokens they are is unknown
            return None
    return roll_out(weights, [gradient[0] for _, gradient in used], reads_tokens)


def _reads_tokens(attention: Attention, inputs: Tensor | None) -> bool:
    """Return whether the queries are tokens; trained queries do not depend on the input."""
    if attention.is_self_attention or attention.queries is None or inputs is None:
        return True
    if not attention.queries.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(
        attention.queries.sum(), inputs, retain_graph=True, allow_unused=True
    )
    return gradient is not None
