"""Transform the bytes of a sound file to a spectrogram, in training and in evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, final

import numpy as np

from clipkit.data.audio.augment import SoundAugmentation, SpecAugment
from clipkit.data.audio.decode import Span, SpanChooser, check_amplitudes, decode_sound
from clipkit.data.audio.formats import SoundLimits, require_package
from clipkit.data.audio.pieces import padded, piece_at, resampled, source_length
from clipkit.errors import SampleError, check_choice
from clipkit.mel import CROPS, PADDINGS, MelOptions, Spectrogram, Wave, log_mel

RANDOM: Final = "random"
PACKAGES: Final = ("soundfile", "soxr")


class SoundTransform(ABC):
    """Transforms the bytes of a sound file to a log-mel spectrogram (abstract).

    Args:
        mel: Parameters of the spectrogram.
        crop: Which piece of a longer sound is used; None for that of ``mel``.
        padding: How a shorter sound is filled up, see ``padded``; None for that of ``mel``.
        limits: Largest sounds; larger ones are refused before they are decoded.

    Attributes:
        mel: Parameters of the spectrogram, with the crop of evaluation and the padding.

    Raises:
        ConfigError: If ``crop`` or ``padding`` is unknown, or the packages for sounds are not
            installed.
    """

    def __init__(
        self,
        mel: MelOptions,
        crop: str | None,
        padding: str | None,
        limits: SoundLimits,
        crops: Sequence[str],
    ) -> None:
        self.crop = mel.crop if crop is None else crop
        padding = mel.padding if padding is None else padding
        check_choice("crop", self.crop, crops)
        check_choice("padding", padding, PADDINGS)
        for package in PACKAGES:
            require_package(package)
        of_evaluation = mel.crop if self.crop == RANDOM else self.crop
        self.mel, self.limits = replace(mel, crop=of_evaluation, padding=padding), limits

    @abstractmethod
    def __call__(self, data: bytes, rng: np.random.Generator) -> Spectrogram:
        """Decode, crop and change one sound.

        Args:
            data: Bytes of the file.
            rng: Random generator of the sample; the result depends only on it and ``data``.

        Returns:
            Values in the unit of ``mel``; the encoder normalises them.

        Raises:
            SampleError: If the bytes are not a usable sound.
        """

    def for_evaluation(self) -> EvalSoundTransform:
        """Return the transform of evaluation: no random numbers, otherwise the same options."""
        return EvalSoundTransform(self.mel, limits=self.limits)

    def _piece(self, data: bytes, place: float) -> Wave:
        """Return a piece of a file at the rate and of the length of the spectrogram.

        Args:
            data: Bytes of the file.
            place: Where the piece is in a longer sound: 0 at the start, 1 at the end.
        """
        wave, source_rate = decode_sound(data, self._chooser(place), self.limits)
        return self._fitted(wave, source_rate)

    def _chooser(self, place: float) -> SpanChooser:
        def choose(length: int, source_rate: int) -> Span:
            wanted = source_length(self.mel.length, self.mel.sample_rate, source_rate)
            return piece_at(place, length, wanted)

        return choose

    def _fitted(self, wave: Wave, source_rate: int) -> Wave:
        found, wave = len(wave), resampled(wave, source_rate, self.mel.sample_rate)
        if not len(wave):
            raise SampleError(
                f"sound of {found} samples at {source_rate} per second has none at the "
                f"{self.mel.sample_rate} per second of the spectrogram"
            )
        return padded(wave, self.mel.length, self.mel.padding)


@final
class TrainSoundTransform(SoundTransform):
    """A random piece of a sound, augmented, as a log-mel spectrogram with masks.

    Only the piece is decoded.

    Args:
        mel: Parameters of the spectrogram; its duration is that of the piece.
        crop: Which piece of a longer sound is used: ``"random"``, ``"centre"`` or ``"start"``;
            None for that of ``mel``. Evaluation uses that of ``mel`` instead of a random one.
        padding: How a shorter sound is filled up: ``"repeat"``, ``"repeat-zero"`` or ``"zero"``;
            None for that of ``mel``.
        augmentations: Augmentations of the piece, in order.
        masks: Masks of the spectrogram; None for none.
        limits: Largest sounds; larger ones are refused before they are decoded.

    Raises:
        ConfigError: If ``crop`` or ``padding`` is unknown, or the packages for sounds are not
            installed.

    Examples:
        >>> transform = TrainSoundTransform(MelOptions(num_frames=100), masks=SpecAugment())
        >>> transform(Path("bark.wav").read_bytes(), np.random.default_rng(0)).shape
        torch.Size([64, 100])
    """

    def __init__(
        self,
        mel: MelOptions = MelOptions(),
        crop: str | None = RANDOM,
        padding: str | None = None,
        augmentations: Sequence[SoundAugmentation] = (),
        masks: SpecAugment | None = None,
        limits: SoundLimits = SoundLimits(),
    ) -> None:
        super().__init__(mel, crop, padding, limits, (RANDOM, *CROPS))
        self.augmentations = tuple(augmentations)
        self.masks = masks

    def __call__(self, data: bytes, rng: np.random.Generator) -> Spectrogram:
        """See ``SoundTransform``."""
        # Drawn always, so that later draws do not depend on the crop or on the length of a sound.
        place = rng.random()
        wave = self._piece(data, place if self.crop == RANDOM else CROPS[self.crop])
        for augment in self.augmentations:
            wave = augment(wave, self.mel.sample_rate, rng)
        spectrogram = log_mel(wave, self.mel)
        return spectrogram if self.masks is None else self.masks(spectrogram, rng)


@final
class EvalSoundTransform(SoundTransform):
    """The centre or the start of a sound as a log-mel spectrogram, without random numbers.

    Args:
        mel: Parameters of the spectrogram; its duration is that of the piece.
        crop: Which piece of a longer sound is used: ``"centre"`` or ``"start"``; None for that of
            ``mel``.
        padding: How a shorter sound is filled up; None for that of ``mel``.
        limits: Largest sounds; larger ones are refused before they are decoded.

    Raises:
        ConfigError: If ``crop`` or ``padding`` is unknown, or the packages for sounds are not
            installed.

    Examples:
        >>> transform = EvalSoundTransform(MelOptions(num_frames=100))
        >>> transform.of_file(Path("bark.wav").read_bytes()).shape
        torch.Size([64, 100])
    """

    def __init__(
        self,
        mel: MelOptions = MelOptions(),
        crop: str | None = None,
        padding: str | None = None,
        limits: SoundLimits = SoundLimits(),
    ) -> None:
        super().__init__(mel, crop, padding, limits, tuple(CROPS))

    def __call__(self, data: bytes, rng: np.random.Generator) -> Spectrogram:  # noqa: ARG002
        """See ``SoundTransform``."""
        return self.of_file(data)

    def of_file(self, data: bytes) -> Spectrogram:
        """Return the spectrogram of the bytes of a sound file.

        Raises:
            SampleError: If they cannot be decoded.
        """
        return log_mel(self._piece(data, CROPS[self.crop]), self.mel)

    def of_wave(self, wave: Wave, sample_rate: int) -> Spectrogram:
        """Return the spectrogram of amplitudes in memory.

        Args:
            wave: Amplitudes of one channel.
            sample_rate: Samples per second of ``wave``.

        Raises:
            SampleError: If there are none, they are NaN, infinite or huge, or the sample rate is
                not positive.
        """
        if not len(wave) or sample_rate < 1:
            raise SampleError(f"sound has {len(wave)} samples, {sample_rate} per second")
        start, length = self._chooser(CROPS[self.crop])(len(wave), sample_rate)
        piece = np.ascontiguousarray(wave[start : start + length], dtype=np.float32)
        check_amplitudes(piece, "sound")
        return log_mel(self._fitted(piece, sample_rate), self.mel)
