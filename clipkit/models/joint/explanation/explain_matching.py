"""Explain the matching logit of a joint encoder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, final

from jaxtyping import Float
from torch import Tensor

from clipkit.models.evaluating import evaluating
from clipkit.models.explanation.explain import Explanation, check_call, image_input
from clipkit.models.explanation.explain_sound import (
    SoundExplanation,
    over_spectrogram,
    sound_input,
)
from clipkit.models.explanation.match import WordWeight
from clipkit.models.explanation.relevance import scaled
from clipkit.models.explanation.words import find_words
from clipkit.models.inputs import ImageInput, SoundInput
from clipkit.models.joint.explanation.fused_match import FusedMatch, FusedRelevance
from clipkit.models.joint.joint_encoder import JointEncoder
from clipkit.models.towers.base import SignalTower

MATCHING_METHODS: Final = ("auto", "attention", "occlusion")


@final
@dataclass(frozen=True, slots=True)
class MatchingExplanation:
    """What carries the matching logit of an image or a sound and a text.

    Attributes:
        caption: Explanation by all words; its ``score`` is the matching logit, and its ``method``
            is "attention" or "occlusion".
        word_maps: Heat map of each word of ``caption.words``, each from 0 to 1; all 0 if no part
            increases the logit by that word.
    """

    caption: Explanation | SoundExplanation
    word_maps: tuple[Float[Tensor, "rows columns"], ...]


def explain_matching(
    joint: JointEncoder,
    image: ImageInput,
    text: str,
    method: str = "auto",
    layer: int | None = None,
) -> MatchingExplanation:
    """Explain a matching logit: which parts of the image each word, and all words, look at.

    In evaluation mode; parameters, their gradients and modules are not changed.

    Args:
        joint: Encoder with a fusion of images and texts alone.
        image: Image of Pillow, or the path of an image file.
        text: Text; a longer one is truncated to the text tower's context length.
        method: "attention": attention between words and patches in the fusion, times its gradient
            (Grad-CAM over cross-attention, Li et al. 2021, arXiv:2107.07651, section 6).
            "occlusion": drop of the logit without a part of the image or a word, for any fusion;
            slower. "auto": "attention" if the fusion has at least two layers of it, in which words
            attend.
        layer: Layer of the fusion whose attention is read, from 0; None for the sum over all. The
            last one cannot be chosen: what its words attend to does not reach the logit.

    Returns:
        Heat map and weights of words, and a heat map of each word.

    Raises:
        ConfigError: If an argument has another type, the text has no word, other modalities are
            fused, or the method does not fit the fusion.
        DataError: If the image cannot be read.
        MetricError: If the logit is not finite.

    Examples:
        >>> joint = with_fusion(encoder, CrossAttentionFusion(width=16, depth=2, num_heads=2))
        >>> explanation = explain_matching(joint, "dog.jpg", "a blue square")
        >>> explanation.caption.heat_map.shape, len(explanation.word_maps)
        (torch.Size([2, 2]), 3)
    """
    check_call(text, method, MATCHING_METHODS)
    pixels, given = image_input(joint, image)
    with evaluating(joint):
        found = FusedMatch(joint, given, text).explained(method, layer)
    words = _weights(text, found)
    caption = Explanation(scaled(found.heat_map), words, found.logit, found.method, pixels)
    return MatchingExplanation(caption, _scaled_maps(found, lambda heat_map: heat_map))


def explain_matching_sound(
    joint: JointEncoder,
    sound: SoundInput,
    text: str,
    method: str = "auto",
    layer: int | None = None,
    name: str = "sound",
) -> MatchingExplanation:
    """Explain a matching logit of a sound and a text; see ``explain_matching``.

    Args:
        joint: Encoder with a fusion of sounds and texts alone.
        sound: Path of a sound file, or amplitudes of one channel with their sample rate; see
            ``explain_sound``.
        text: Text; a longer one is truncated to the text tower's context length.
        method: "attention", "occlusion" or "auto"; the first needs a tower whose tokens are a grid
            over the spectrogram (``positions()``).
        layer: Layer of the fusion; see ``explain_matching``.
        name: Name of the modality.

    Raises:
        ConfigError: If an argument has another type, the text has no word, other modalities are
            fused, or the method fits neither the fusion nor the tower.
        DataError: If the sound cannot be read.
        MetricError: If the logit is not finite.

    Examples:
        >>> tower = TimmSoundTower("test_vit", encoder.embedding_dim, MelOptions(num_frames=50))
        >>> model = with_towers(encoder, {"sound": tower})
        >>> fusion = CrossAttentionFusion(16, depth=2, num_heads=2, context=["sound"])
        >>> joint = with_fusion(model, fusion)
        >>> explain_matching_sound(joint, "bark.wav", "a dog").caption.heat_map.shape
        torch.Size([64, 50])
    """
    check_call(text, method, MATCHING_METHODS)
    spectrogram, given = sound_input(joint, sound, name, method)
    with evaluating(joint):
        found = FusedMatch(joint, given, text).explained(method, layer)
    tower = given.tower
    assert isinstance(tower, SignalTower), "it reads sounds"
    assert tower.mel is not None, "it reads sounds"

    def placed(heat_map: Float[Tensor, "rows columns"]) -> Float[Tensor, "num_mels num_frames"]:
        return over_spectrogram(heat_map, spectrogram, tower, found.method == "attention")

    caption = SoundExplanation(
        scaled(placed(found.heat_map)),
        _weights(text, found),
        found.logit,
        found.method,
        spectrogram,
        tower.mel,
    )
    return MatchingExplanation(caption, _scaled_maps(found, placed))


def _weights(text: str, found: FusedRelevance) -> tuple[WordWeight, ...]:
    words = [text[place] for place in find_words(text)]
    return tuple(map(WordWeight, words, scaled(found.words).tolist()))


def _scaled_maps(
    found: FusedRelevance, placed: Callable[[Tensor], Tensor]
) -> tuple[Float[Tensor, "rows columns"], ...]:
    return tuple(scaled(placed(heat_map)) for heat_map in found.word_maps)
