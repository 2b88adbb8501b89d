"""Draw what carries a matching logit: all words, and a small heat map of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from PIL import Image, ImageDraw, ImageFont

from clipkit.evaluation.report.sections.overlay import (
    INK,
    MARGIN,
    as_png,
    draw_explanation,
    draw_overlay,
)
from clipkit.models import MatchingExplanation

MOST_WORDS: Final = 12
"""Number of words whose heat maps are drawn, those of the largest weights."""
_COLUMNS: Final = 4
_GAP: Final = 8
_LABEL: Final = 24
_FONT_PIXELS: Final = 16


def matching_png(explanation: MatchingExplanation, width: int = 448) -> bytes:
    r"""Draw the heat map of the complete text, the shaded words, and a heat map per word.

    Args:
        explanation: Result of ``explain_matching`` or ``explain_matching_sound``.
        width: Width of the large heat map, in pixels.

    Returns:
        The bytes of a PNG file. At most the 12 words of the largest weights have a heat map.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=2, num_heads=2))
        >>> matching_png(explain_matching(joint, "dog.jpg", "a blue square"))[:4]
        b'\x89PNG'
    """
    top = draw_explanation(explanation.caption, width, "matching logit")
    side = (width - _GAP * (_COLUMNS - 1)) // _COLUMNS
    maps = list(word_overlays(explanation, side))
    height = max((overlay.height for _, overlay in maps), default=0) + _LABEL
    canvas = Image.new("RGB", (top.width, top.height + height * -(-len(maps) // _COLUMNS)), "white")
    canvas.paste(top)
    draw, font = ImageDraw.Draw(canvas), ImageFont.load_default(size=_FONT_PIXELS)
    for number, (word, overlay) in enumerate(maps):
        row, column = divmod(number, _COLUMNS)
        left, above = MARGIN + column * (side + _GAP), top.height + row * height
        canvas.paste(overlay, (left, above))
        shown = _fitting(word, font, side)
        draw.text((left, above + overlay.height + 2), shown, INK, font, anchor="la")
    return as_png(canvas)


def word_overlays(
    explanation: MatchingExplanation, width: int
) -> Iterator[tuple[str, Image.Image]]:
    """Yield words in their order, those of the largest weights, with the input and their heat map.

    Args:
        explanation: The explanation.
        width: Width of each image, in pixels.
    """
    words = explanation.caption.words
    by_weight = sorted(range(len(words)), key=lambda number: -words[number].weight)
    for number in sorted(by_weight[:MOST_WORDS]):
        of_word = replace(explanation.caption, heat_map=explanation.word_maps[number])
        yield words[number].word, draw_overlay(of_word, width)


def _fitting(word: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten a word to a width, in pixels."""
    if font.getlength(word) <= width:
        return word
    shorter = (f"{word[:end]}…" for end in range(len(word) - 1, 0, -1))
    return next((text for text in shorter if font.getlength(text) <= width), "")
