"""Explain the similarity of an image and a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol, final

from jaxtyping import Float, UInt8
from torch import Tensor

from clipkit.errors import ConfigError, check_choice
from clipkit.models.explanation.match import ExplainedInput, Match, WordWeight
from clipkit.models.explanation.relevance import scaled
from clipkit.models.explanation.words import find_words
from clipkit.models.inputs import ImageInput, pixels_of
from clipkit.models.towers.base import ImageTower, TextTower
from clipkit.patches import join_images

METHODS: Final = ("auto", "attention", "grad_cam", "occlusion")


@final
@dataclass(frozen=True, slots=True)
class Explanation:
    """What carries the similarity of an image and a text.

    Attributes:
        heat_map: Relevance of each part of ``pixels``, from 0 to 1; all 0 if no part increases
            the similarity.
        words: Words of the text in their order, with weights; a truncated word has weight 0.
        score: What is explained: the cosine similarity, or the logit of a ``MatchingExplanation``.
        method: "attention", "grad_cam" or "occlusion": how the heat map was computed.
        pixels: The image as the image tower reads it, resized and cropped, 0 to 255.
    """

    heat_map: Float[Tensor, "rows columns"]
    words: tuple[WordWeight, ...]
    score: float
    method: str
    pixels: UInt8[Tensor, "3 H W"]


class ImageEncoder(Protocol):
    """What the explanation of an image needs of an encoder."""

    image_tower: ImageTower
    image_mean: Tensor

    def normalize(self, images: Tensor) -> Tensor:
        """Normalise pixels."""

    def encode_image(self, images: Tensor, grids: Tensor | None = None) -> Tensor:
        """Embed images."""


class Encoder(ImageEncoder, Protocol):
    """What an explanation needs of ``clipkit.models.DualEncoder``."""

    text_tower: TextTower

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed texts."""


def explain(encoder: Encoder, image: ImageInput, text: str, method: str) -> Explanation:
    """Explain a similarity; see ``clipkit.models.DualEncoder.explain``.

    The encoder is in evaluation mode.
    """
    check_call(text, method)
    pixels, given = image_input(encoder, image)
    match = Match(encoder, given, text)
    heat_map, weights, score, method = match.explained(method)
    return Explanation(scaled(heat_map), match.words(weights), score, method, pixels)


def image_input(
    encoder: ImageEncoder, image: ImageInput
) -> tuple[UInt8[Tensor, "3 H W"], ExplainedInput]:
    """Return an image as the image tower reads it: its pixels, and its normalised values."""
    pixels = pixels_of(encoder.image_tower, image, "image")
    joined, grids = join_images([pixels], encoder.image_tower.budget)
    device = encoder.image_mean.device
    return pixels, ExplainedInput(
        "image",
        encoder.image_tower,
        encoder.normalize(joined.to(device)),
        None if grids is None else grids.to(device),
        encoder.encode_image,
    )


def check_call(text: str, method: str, methods: Sequence[str] = METHODS) -> None:
    """Check the arguments of an explanation.

    Args:
        text: Text that is explained.
        method: Name of the method.
        methods: Methods that there are.

    Raises:
        ConfigError: If the method is unknown, or the text has no word.
    """
    check_choice("method", method, methods)
    if not isinstance(text, str) or not find_words(text):
        raise ConfigError(f"text: expected a text of at least one word, got {text!r}")
