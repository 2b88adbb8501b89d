"""Explain the similarity of a sound and a text, over the times and frequencies of the sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, final

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from clipkit.errors import ConfigError
from clipkit.mel import MelOptions
from clipkit.models.evaluating import evaluating
from clipkit.models.explanation.explain import check_call
from clipkit.models.explanation.match import ExplainedInput, Match, WordWeight
from clipkit.models.explanation.relevance import scaled
from clipkit.models.inputs import SoundInput, sound_batches
from clipkit.models.towers.base import SignalTower, TextTower, Tower


@final
@dataclass(frozen=True, slots=True)
class SoundExplanation:
    """What carries the similarity of a sound and a text.

    Attributes:
        heat_map: Relevance of each band and frame, low bands first, from 0 to 1; all 0 if no part
            increases the similarity.
        words: Words of the text in their order, with weights; a truncated word has weight 0.
        score: What is explained: the cosine similarity, or the logit of a ``MatchingExplanation``.
        method: "attention", "grad_cam" or "occlusion": how the heat map was computed.
        spectrogram: The sound as the tower reads it, before its normalisation.
        mel: Parameters of the spectrogram.
    """

    heat_map: Float[Tensor, "num_mels num_frames"]
    words: tuple[WordWeight, ...]
    score: float
    method: str
    spectrogram: Float[Tensor, "num_mels num_frames"]
    mel: MelOptions


class SoundEncoder(Protocol):
    """What an explanation needs of ``clipkit.models.MultimodalEncoder``."""

    text_tower: TextTower
    log_logit_scale: Any

    @property
    def towers(self) -> Mapping[str, Tower]:
        """Towers by the name of their modality."""

    def encode_signal(self, name: str, values: Tensor) -> Tensor:
        """Embed the inputs of a further modality."""

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Embed texts."""


def explain_sound(
    encoder: SoundEncoder, sound: SoundInput, text: str, method: str = "auto", name: str = "sound"
) -> SoundExplanation:
    """Explain a similarity: which bands at which times, and which words, carry it.

    Methods are those of ``DualEncoder.explain``, in evaluation mode; nothing of the encoder is
    changed.

    Args:
        encoder: A ``MultimodalEncoder`` with a tower for sounds and one for texts.
        sound: Path of a sound file, or amplitudes of one channel with their sample rate. Of a
            longer sound, the piece that the tower declares is explained.
        text: Text; a longer one is truncated to the text tower's context length.
        method: "attention", "grad_cam" or "occlusion"; "auto" for the first two, whichever fits the
            tower, or for occlusion if the tower does not keep the positions of a spectrogram.
        name: Name of the modality, whose tower declares its spectrograms (``mel``).

    Raises:
        ConfigError: If there is no such tower or none for texts, an argument has another type, the
            text has no word, or the method does not fit a tower.
        DataError: If the sound cannot be read.
        MetricError: If the similarity is not finite.

    Examples:
        >>> tower = TimmSoundTower("test_vit", encoder.embedding_dim, MelOptions(num_frames=50))
        >>> model = with_towers(encoder, {"sound": tower})
        >>> explain_sound(model, "bark.wav", "a dog").heat_map.shape
        torch.Size([64, 50])
    """
    check_call(text, method)
    spectrogram, given = sound_input(encoder, sound, name, method)
    assert isinstance(given.tower, SignalTower), "it reads sounds"
    positions = given.tower.positions()
    match = Match(encoder, given, text)
    with evaluating(encoder):  # type: ignore[arg-type]  # a module
        explained = match.explained("occlusion" if positions is None else method)
    from_tokens = explained.method != "occlusion"
    heat_map = over_spectrogram(explained.heat_map, spectrogram, given.tower, from_tokens)
    assert given.tower.mel is not None, "it reads sounds"
    return SoundExplanation(
        scaled(heat_map),
        match.words(explained.words),
        explained.score,
        explained.method,
        spectrogram,
        given.tower.mel,
    )


def sound_input(
    encoder: SoundEncoder, sound: SoundInput, name: str, method: str
) -> tuple[Float[Tensor, "num_mels num_frames"], ExplainedInput]:
    """Return a sound as its tower reads it: the spectrogram, and the input of an explanation.

    Raises:
        ConfigError: If there is no such tower or none for texts, or the method needs positions that
            the tower does not keep.
        DataError: If the sound cannot be read.
    """
    tower = _tower(encoder, name)
    (spectrogram,) = next(sound_batches(tower, [sound], 1))
    positions = tower.positions()
    if positions is None and method not in ("auto", "occlusion"):
        raise ConfigError(
            f"{name}_tower: {type(tower).__name__} does not keep the positions of a spectrogram, "
            f"which {method!r} needs; use the method 'occlusion'"
        )
    return spectrogram, ExplainedInput(
        name,
        tower,
        spectrogram[None, None].to(encoder.log_logit_scale),
        None,
        lambda values, _: encoder.encode_signal(name, values.squeeze(1)),
        None if positions is None else positions.token_grid,
    )


def over_spectrogram(
    heat_map: Float[Tensor, "rows columns"],
    spectrogram: Float[Tensor, "num_mels num_frames"],
    tower: SignalTower,
    from_tokens: bool,
) -> Float[Tensor, "num_mels num_frames"]:
    """Interpolate a heat map to the bands and frames of a spectrogram.

    Args:
        heat_map: Relevance.
        spectrogram: The sound as the tower reads it.
        tower: The tower.
        from_tokens: Whether the relevance is that of the tower's tokens or features, which may
            include those of padding, and not that of parts of the spectrogram.
    """
    size, positions = tuple(spectrogram.shape), tower.positions()
    if from_tokens and positions is not None:
        size = (positions.num_mels, positions.num_frames)
    return _at_size(heat_map, size)[: len(spectrogram), : spectrogram.shape[1]]


def _tower(encoder: SoundEncoder, name: str) -> SignalTower:
    tower = encoder.towers.get(name)
    if not isinstance(tower, SignalTower) or "text" not in encoder.towers:
        raise ConfigError(
            f"explain: expected an encoder with the towers {name} and text, got "
            f"{', '.join(encoder.towers)}"
        )
    return tower


def _at_size(
    heat_map: Float[Tensor, "rows columns"], size: tuple[int, ...]
) -> Float[Tensor, "num_mels num_frames"]:
    """Interpolate a heat map; its values are those in the centres of its cells."""
    large = heat_map.detach().float().cpu()[None, None]
    return F.interpolate(large, size, mode="bilinear", align_corners=False)[0, 0]
