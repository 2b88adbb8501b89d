"""Collect explanations of matches."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import torch
import torch.nn.functional as F

from clipkit.data.audio.previews import sound_preview
from clipkit.data.images.formats import DEFAULT_MAX_PIXELS, open_image
from clipkit.data.samples.content import sample_errors
from clipkit.errors import ConfigError, MetricError
from clipkit.evaluation.datasets.sample_source import SampleSource
from clipkit.evaluation.embedding import EmbeddedPairs
from clipkit.evaluation.report import content
from clipkit.evaluation.report.collect.thumbnails import as_webp
from clipkit.evaluation.report.sections.overlay import draw_image, draw_overlay
from clipkit.mel import CROPS
from clipkit.models import DualEncoder, Explanation, SoundExplanation

_PIXELS: Final = 280
_CONSTANT: Final = 1e-6
_LEFT_OUT: Final = (ConfigError, MetricError, torch.OutOfMemoryError)
"""What must not cost the results of an evaluation; gradients need more memory than embeddings."""
_NAMES: Final = {
    "attention": "Gradient-weighted attention rollout",
    "grad_cam": "Grad-CAM",
    "occlusion": "Occlusion",
}


def explained_pairs(
    encoder: DualEncoder,
    data: SampleSource,
    pairs: EmbeddedPairs,
    count: int = 6,
    seed: int = 0,
) -> list[content.Explanation]:
    """Explain matches of images and captions that are selected at random.

    Args:
        encoder: The model.
        data: The images.
        pairs: Their embeddings, with captions.
        count: Number of captions; those without a word are left out.
        seed: Seed of the selection.

    Returns:
        Explanations by the method that fits the towers, else by occlusion; none if the tokenizer
        cannot be loaded.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(pairs.captions), generator=generator)[:count].tolist()
    explanations = []
    for row in chosen:
        sample, text = data.sample(int(pairs.text_to_image[row])), pairs.captions[row]
        with sample_errors(data.name, sample.key), suppress(*_LEFT_OUT):
            image = open_image(sample.image, DEFAULT_MAX_PIXELS)
            occluded = explanation = encoder.explain(image, text, "occlusion")
            with suppress(*_LEFT_OUT):  # no method but occlusion fits
                explanation = encoder.explain(image, text)
            explanations.append(as_content(explanation, text, occluded))
    return explanations


def as_content(
    explanation: Explanation, text: str, occluded: Explanation | None = None
) -> content.Explanation:
    """Return an explanation as content of the page.

    Args:
        explanation: Result of ``DualEncoder.explain``.
        text: The text.
        occluded: The same match by occlusion, with which the heat map is compared; None to omit
            the comparison.
    """
    note = f"{_NAMES[explanation.method]}."
    if occluded is not None and explanation.method != occluded.method:
        agreement = correlation(explanation, occluded)
        if agreement is not None:
            note += f" Correlation with occlusion: {agreement:.2f}."
    return content.Explanation(
        content.Thumbnail(as_webp(draw_image(explanation, _PIXELS)), text),
        content.Thumbnail(as_webp(draw_overlay(explanation, _PIXELS)), f"Heat map: {text}"),
        explanation.words,
        explanation.score,
        note,
    )


def as_sound_content(explanation: SoundExplanation, text: str, sound: bytes) -> content.Explanation:
    """Return the explanation of a sound as content of the page, with a player.

    Args:
        explanation: Result of ``explain_sound`` for a file.
        text: The text.
        sound: Content of the file.
    """
    mel = explanation.mel
    note = (
        f"{_NAMES[explanation.method]}. {mel.seconds:g} s from left to right, {mel.f_min:,.0f} to "
        f"{mel.f_max:,.0f} Hz from bottom to top."
    )
    copy, media_type = sound_preview(sound, mel.seconds, CROPS[mel.crop])
    player = content.Thumbnail(copy, f"Sound: {text}", media_type)
    return content.Explanation(
        content.Thumbnail(as_webp(draw_image(explanation, _PIXELS)), f"Spectrogram: {text}"),
        content.Thumbnail(as_webp(draw_overlay(explanation, _PIXELS)), f"Heat map: {text}"),
        explanation.words,
        explanation.score,
        note,
        player,
    )


def correlation(explanation: Explanation, other: Explanation) -> float | None:
    """Return the correlation of two heat maps at the lower resolution; None if one is constant.

    Examples:
        >>> explanation = encoder.explain("dog.jpg", "a blue square")
        >>> correlation(explanation, explanation)
        1.0
    """
    maps = (explanation.heat_map, other.heat_map)
    shape = (min(len(part) for part in maps), min(part.shape[1] for part in maps))
    small = [F.adaptive_avg_pool2d(heat_map[None], shape).flatten() for heat_map in maps]
    if any(values.max() - values.min() < _CONSTANT for values in small):
        return None
    return round(float(torch.corrcoef(torch.stack(small))[0, 1]), 6)
