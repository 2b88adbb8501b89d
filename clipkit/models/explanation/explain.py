"""Explain the similarity of an image and a text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isfinite, isqrt
from typing import Final, NamedTuple, Protocol, final

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from clipkit.errors import ConfigError, MetricError, check_choice
from clipkit.models.explanation.occlusion import occlude_image, occlude_words
from clipkit.models.explanation.recording import Attention, ForwardRecorder
from clipkit.models.explanation.relevance import grad_cam, is_chain, roll_out, scaled
from clipkit.models.explanation.words import find_tokens, find_words
from clipkit.models.inputs import ImageInput, pixels_of, token_batches, tokenizer_of
from clipkit.models.towers.base import ImageTower, TextTower
from clipkit.patches import join_images

METHODS: Final = ("auto", "attention", "grad_cam", "occlusion")


class WordWeight(NamedTuple):
    """A word of a text and its share in a similarity.

    Attributes:
        word: The word, as written.
        weight: From 0 to 1, which is that of the word that carries most.
    """

    word: str
    weight: float


@final
@dataclass(frozen=True, slots=True)
class Explanation:
    """What carries the similarity of an image and a text.

    Attributes:
        heat_map: Relevance of each part of ``pixels``, from 0 to 1; all 0 if no part increases
            the similarity.
        words: Words of the text in their order, with weights; a truncated word has weight 0.
        score: Cosine similarity.
        method: "attention", "grad_cam" or "occlusion": how the heat map was computed.
        pixels: The image as the image tower reads it, resized and cropped, 0 to 255.
    """

    heat_map: Float[Tensor, "rows columns"]
    words: tuple[WordWeight, ...]
    score: float
    method: str
    pixels: UInt8[Tensor, "3 H W"]


class Encoder(Protocol):
    """What an explanation needs of ``clipkit.models.DualEncoder``."""

    image_tower: ImageTower
    text_tower: TextTower
    image_mean: Tensor

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise pixels."""

    def encode_image(self, images: Tensor, grids: Tensor | None = None) -> Tensor:
        """Embed images."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed texts."""


def explain(encoder: Encoder, image: ImageInput, text: str, method: str) -> Explanation:
    """Explain a similarity; see ``clipkit.models.DualEncoder.explain``.

    The encoder is in evaluation mode.
    """
    check_choice("method", method, METHODS)
    if not isinstance(text, str) or not find_words(text):
        raise ConfigError(f"text: expected a text of at least one word, got {text!r}")
    pixels = pixels_of(encoder.image_tower, image, "image")
    joined, grids = join_images([pixels], encoder.image_tower.budget)
    device = encoder.image_mean.device
    match = _Match(encoder, joined.to(device), None if grids is None else grids.to(device), text)
    explained = match.by_occlusion() if method == "occlusion" else match.by_gradients(method)
    heat_map, weights, score, method = explained
    words = [text[place] for place in find_words(text)]
    return Explanation(
        scaled(heat_map),
        tuple(map(WordWeight, words, scaled(weights).tolist())),
        score,
        method,
        pixels,
    )


class _Explained(NamedTuple):
    heat_map: Float[Tensor, "rows columns"]
    words: Float[Tensor, " words"]
    score: float
    method: str


class _Match(NamedTuple):
    """An image and a text, as an encoder reads them."""

    encoder: Encoder
    pixels: Tensor
    grids: Int64[Tensor, "B 2"] | None
    text: str

    def by_occlusion(self) -> _Explained:
        """Measure the drop of the similarity without each cell and each word."""
        images = self.encoder.normalize(self.pixels)
        image = self.encoder.encode_image(images, self.grids)
        text = self._text_embeddings([self.text])
        score = _checked(image @ text.T)
        heat_map = occlude_image(
            images, self.grids, lambda *part: self.encoder.encode_image(*part) @ text[0]
        )
        words = find_words(self.text)
        read = [n for n, tokens in enumerate(self._tokens()) if tokens.start < tokens.stop]
        weights = text.new_zeros(len(words))
        weights[read] = occlude_words(
            self.text,
            [words[n] for n in read],
            lambda texts: self._text_embeddings(texts) @ image[0],
        )
        return _Explained(heat_map, weights, score, "occlusion")

    def by_gradients(self, method: str) -> _Explained:
        """Compute relevance from attention or a feature map, and their gradients."""
        with _gradients():
            images = self.encoder.normalize(self.pixels).detach().requires_grad_()
            with ForwardRecorder() as seen:
                image = self.encoder.encode_image(images, self.grids)
            with ForwardRecorder() as read:
                text = self._text_embeddings([self.text])
            similarity = (image * text).sum()
            score = _checked(similarity)
            method = _choose(seen, method, self.encoder.image_tower)
            heat_map: Tensor | None
            if method == "grad_cam":
                heat_map = _map_relevance(seen, similarity)
            else:
                patches = _token_relevance(seen, similarity, images)
                heat_map = None if patches is None else _as_grid(patches, self.grids)
            tokens = _token_relevance(read, similarity, None)
        if heat_map is None:
            raise _refusal("image", self.encoder.image_tower, "'grad_cam' or 'occlusion'")
        if tokens is None:
            raise _refusal("text", self.encoder.text_tower, "'occlusion'")
        words = torch.stack([tokens[place].sum() for place in self._tokens()])
        return _Explained(heat_map, words, score, method)

    def _tokens(self) -> list[slice]:
        """Return the position of the tokens of each word; a truncated word has none."""
        return find_tokens(self.text, tokenizer_of(self.encoder.text_tower).encode)

    def _text_embeddings(self, texts: Sequence[str]) -> Float[Tensor, "M D"]:
        (tokens,) = token_batches(self.encoder.text_tower, texts, len(texts))
        return self.encoder.encode_text(tokens.to(self.pixels.device))


@contextmanager
def _gradients() -> Iterator[None]:
    """Allow gradients, and let compiled towers call each function."""
    try:
        with (
            torch.inference_mode(False),
            torch.enable_grad(),
            torch.compiler.set_stance("force_eager"),
        ):
            yield
    except CheckpointError as error:  # what is recomputed would not be seen
        raise ConfigError(
            "explain: the towers recompute their activations in the backward pass; load the "
            "encoder from its checkpoint, or use the method 'occlusion'"
        ) from error


def _checked(similarity: Float[Tensor, "*one"]) -> float:
    value = float(similarity.detach())
    if not isfinite(value):
        raise MetricError(
            f"explain: the similarity is {value}; the weights of the encoder or the pixels of the "
            f"image are not finite"
        )
    return value


def _choose(seen: ForwardRecorder, method: str, tower: ImageTower) -> str:
    """Return the method that was requested, or for "auto" the one that fits an image tower.

    Grad-CAM needs a map near the output, and rollout layers of self-attention; attention pooling
    after convolutions is one such layer.
    """
    name = type(tower).__name__
    if seen.feature_map is None and not seen.attentions:
        raise ConfigError(
            f"image_tower: {name} has neither attention nor convolutions that gradients pass "
            f"through; use the method 'occlusion'"
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


def _refusal(kind: str, tower: ImageTower | TextTower, alternatives: str) -> ConfigError:
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


def _as_grid(
    tokens: Float[Tensor, " tokens"], grids: Int64[Tensor, "B 2"] | None
) -> Float[Tensor, "rows columns"]:
    """Return the patches as a grid: the last tokens, after those of the class and of registers."""
    rows, columns = [isqrt(len(tokens))] * 2 if grids is None else grids[0].tolist()
    return tokens[len(tokens) - rows * columns :].view(rows, columns)
