"""Sounds as a modality of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import numpy as np
import torch

from clipkit.data.audio.formats import SOUND_EXTENSIONS
from clipkit.data.audio.transforms import SoundTransform, TrainSoundTransform
from clipkit.data.modalities.field import ModalityField, OnError
from clipkit.mel import Spectrogram


@final
class Sounds(ModalityField):
    """Sounds as log-mel spectrograms: ``batch.modalities["sound"]``.

    Args:
        transform: Transform from a sound file to a spectrogram; None for a random piece with the
            default parameters. Its ``mel`` has to be that of the tower. Validation uses the
            piece of ``mel``, the centre of a sound by default, without augmentation.
        name: Name of the modality: that of its tower.
        members: Extensions of the sound files; the first that a sample has is read.
        on_error: What a sound that cannot be used does: ``"skip"`` leaves out the sample,
            ``"absent"`` keeps it without its sound. Either is logged, and counts for ``faults``.

    Raises:
        ConfigError: If an option cannot be used, or the packages for sounds are not installed.

    Examples:
        >>> sounds = Sounds(EvalSoundTransform(MelOptions(num_frames=100)), on_error="absent")
        >>> sounds.read(Path("bark.wav").read_bytes(), np.random.default_rng(0)).shape
        torch.Size([64, 100])
    """

    def __init__(
        self,
        transform: SoundTransform | None = None,
        name: str = "sound",
        members: Sequence[str] = SOUND_EXTENSIONS,
        on_error: OnError = "skip",
    ) -> None:
        super().__init__(name, members, on_error)
        self.transform = TrainSoundTransform() if transform is None else transform
        self.mel = self.transform.mel

    def read(self, data: bytes, rng: np.random.Generator) -> Spectrogram:
        """See ``ModalityField.read``."""
        return self.transform(data, rng)

    def empty(self) -> Spectrogram:
        """See ``ModalityField.empty``."""
        mel = self.transform.mel
        return torch.zeros(mel.num_mels, mel.num_frames)

    def for_evaluation(self) -> Sounds:
        """See ``SampleField.for_evaluation``."""
        return Sounds(self.transform.for_evaluation(), self.name, self.members, self.on_error)
