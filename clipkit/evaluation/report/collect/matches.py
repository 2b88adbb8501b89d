"""Collect explanations of matching logits of a joint encoder."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

import torch

from clipkit.data.images.formats import DEFAULT_MAX_PIXELS, open_image
from clipkit.data.samples.content import sample_errors
from clipkit.errors import ConfigError, MetricError
from clipkit.evaluation.datasets.sample_source import SampleSource
from clipkit.evaluation.embedding import EmbeddedPairs
from clipkit.evaluation.report import content
from clipkit.evaluation.report.collect.explanations import as_content, as_sound_content, correlation
from clipkit.evaluation.report.collect.thumbnails import as_webp
from clipkit.evaluation.report.sections.word_maps import word_overlays
from clipkit.models import (
    Explanation,
    JointEncoder,
    MatchingExplanation,
    TowerEncoder,
    explain_matching,
)

_PIXELS: Final = 120
_LEFT_OUT: Final = (ConfigError, MetricError, torch.OutOfMemoryError)
_NAMES: Final = {
    "attention": "Attention in the fusion, times its gradient",
    "occlusion": "Occlusion",
}


def explained_matches(
    encoder: TowerEncoder,
    data: SampleSource,
    pairs: EmbeddedPairs,
    count: int = 4,
    seed: int = 0,
) -> list[content.Explanation]:
    """Explain the matching logits of images and captions that are selected at random.

    Args:
        encoder: The model.
        data: The images.
        pairs: Their captions.
        count: Number of captions; those without a word are left out.
        seed: Seed of the selection.

    Returns:
        Explanations by the method "auto"; none if the encoder has no fusion, or one of other
        modalities.
    """
    if not isinstance(encoder, JointEncoder):
        return []
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(len(pairs.captions), generator=generator)[:count].tolist()
    explanations = []
    for row in chosen:
        sample, text = data.sample(int(pairs.text_to_image[row])), pairs.captions[row]
        with sample_errors(data.name, sample.key), suppress(*_LEFT_OUT):
            image = open_image(sample.image, DEFAULT_MAX_PIXELS)
            occluded = found = explain_matching(encoder, image, text, "occlusion")
            with suppress(*_LEFT_OUT):
                found = explain_matching(encoder, image, text)
            explanations.append(matching_content(found, text, occluded))
    return explanations


def matching_content(
    explanation: MatchingExplanation,
    text: str,
    occluded: MatchingExplanation | None = None,
    sound: bytes | None = None,
) -> content.Explanation:
    """Return an explanation as content of the page.

    Args:
        explanation: Result of ``explain_matching`` or ``explain_matching_sound``.
        text: The text.
        occluded: The same match by occlusion, with which the heat map is compared; None to omit
            the comparison.
        sound: Content of the file of a sound; None for an image.
    """
    caption = explanation.caption
    note = f"{_NAMES[caption.method]}."
    if isinstance(caption, Explanation):
        shown = as_content(caption, text)
        if occluded is not None and caption.method == "attention":
            assert isinstance(occluded.caption, Explanation), "the same input"
            agreement = correlation(caption, occluded.caption)
            note += "" if agreement is None else f" Correlation with occlusion: {agreement:.2f}."
    else:
        assert sound is not None, "it is shown with a player"
        shown = as_sound_content(caption, text, sound)
        note += shown.note.partition(".")[2]
    parts = [
        (word, content.Thumbnail(as_webp(overlay), f"Heat map: {word}"))
        for word, overlay in word_overlays(explanation, _PIXELS)
    ]
    return content.Explanation(
        shown.image, shown.overlay, shown.words, shown.similarity, note, shown.sound,
        "Matching logit", parts,
    )  # fmt: skip
