"""Draw what carries the similarity of an image or a sound and a text."""

from __future__ import annotations

import io
from typing import Final

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont

from clipkit.evaluation.report.sections.spectrogram import draw_spectrogram
from clipkit.models import Explanation, SoundExplanation, WordWeight

_PLACES: Final = (0.0, 0.5, 1.0)
_CHANNELS: Final = ((36, 203, 252), (12, 65, 216), (79, 73, 53))
"""Red, green and blue at ``_PLACES``: violet, red, yellow."""
_STRENGTH: Final = 0.75
MARGIN: Final = 16
_FONT_PIXELS: Final = 20
_LINE: Final = 34
INK: Final = (25, 28, 33)
_WORD: Final = (38, 95, 189)


def overlay_png(explanation: Explanation | SoundExplanation, width: int = 448) -> bytes:
    r"""Draw the heat map over the image or the spectrogram that the tower read.

    Args:
        explanation: Result of ``DualEncoder.explain`` or ``explain_sound``.
        width: Width of the result, in pixels.

    Returns:
        The bytes of a PNG file.

    Examples:
        >>> overlay_png(encoder.explain("dog.jpg", "a blue square"))[:4]
        b'\x89PNG'
    """
    return as_png(draw_overlay(explanation, width))


def explanation_png(explanation: Explanation | SoundExplanation, width: int = 448) -> bytes:
    """Draw the heat map over the image, and below it the text with shaded words.

    Args:
        explanation: Result of ``DualEncoder.explain`` or ``explain_sound``.
        width: Width of the image, in pixels.

    Returns:
        The bytes of a PNG file.
    """
    return as_png(draw_explanation(explanation, width, "similarity"))


def draw_explanation(
    explanation: Explanation | SoundExplanation, width: int, measure: str
) -> Image.Image:
    """Draw what ``explanation_png`` returns.

    Args:
        explanation: The explanation.
        width: Width of the overlay, in pixels; a margin is added.
        measure: What the score is.
    """
    overlay = draw_overlay(explanation, width)
    font = ImageFont.load_default(size=_FONT_PIXELS)
    lines = _lines(explanation.words, font, overlay.width)
    bottom = overlay.height + MARGIN
    size = (overlay.width + 2 * MARGIN, bottom + _LINE * (len(lines) + 1) + 2 * MARGIN)
    canvas = Image.new("RGB", size, "white")
    canvas.paste(overlay, (MARGIN, MARGIN))
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        left, top = float(MARGIN), bottom + MARGIN / 2 + _LINE * number
        for word, weight in line:
            right = left + font.getlength(word) + 8
            draw.rounded_rectangle((left, top, right, top + _LINE - 6), 4, _mixed(_WORD, weight))
            ink = "white" if weight > 0.6 else INK
            draw.text((left + 4, top + (_LINE - 6) / 2), word, ink, font, anchor="lm")
            left = right + 4
    note = f"{measure} {explanation.score:.2f}, by {explanation.method.replace('_', '-')}"
    draw.text((MARGIN, size[1] - MARGIN), note, INK, font, anchor="ls")
    return canvas


def draw_image(explanation: Explanation | SoundExplanation, width: int) -> Image.Image:
    """Return what the tower read as an image of another width; of a sound its spectrogram."""
    if isinstance(explanation, SoundExplanation):
        return draw_spectrogram(explanation.spectrogram, width)
    pixels = explanation.pixels.permute(1, 2, 0).numpy()
    size = (width, max(1, round(width * pixels.shape[0] / pixels.shape[1])))
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)


def draw_overlay(explanation: Explanation | SoundExplanation, width: int) -> Image.Image:
    """Draw the heat map over the image; see ``overlay_png``."""
    image = draw_image(explanation, width)
    values = explanation.heat_map.numpy().astype(np.float32)
    if isinstance(explanation, SoundExplanation):
        values = np.ascontiguousarray(values[::-1])  # low bands are at the bottom
    large = Image.fromarray(values).resize(image.size, Image.Resampling.BILINEAR)
    heat = np.asarray(large).clip(0, 1)[..., None]
    share = _STRENGTH * heat
    mixed = (1 - share) * np.asarray(image) + share * _color(heat)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _color(heat: Float[np.ndarray, "H W 1"]) -> Float[np.ndarray, "H W 3"]:
    channels = [np.asarray(np.interp(heat, _PLACES, values)) for values in _CHANNELS]
    return np.concatenate(channels, axis=-1)


def _mixed(color: tuple[int, int, int], share: float) -> tuple[int, int, int]:
    """Mix white (share 0) and a colour (share 1)."""
    red, green, blue = (round(255 + (part - 255) * share) for part in color)
    return red, green, blue


def _lines(
    words: tuple[WordWeight, ...], font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> list[list[WordWeight]]:
    """Break words into lines of at most a width, in pixels."""
    lines: list[list[WordWeight]] = []
    left = float(width)
    for word in words:
        length = font.getlength(word.word) + 12
        if not lines or left + length > width:
            lines.append([])
            left = 0.0
        lines[-1].append(word)
        left += length
    return lines


def as_png(image: Image.Image) -> bytes:
    """Encode an image as PNG."""
    out = io.BytesIO()
    image.save(out, format="PNG", optimize=True)
    return out.getvalue()
