"""Short sounds of a data set for the page, with images of their spectrograms."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, final

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image
from torch import Tensor

from clipkit.data.audio.previews import sound_preview
from clipkit.data.images.formats import IMAGE_EXTENSIONS
from clipkit.data.modalities.sounds import Sounds
from clipkit.data.samples.content import sample_errors
from clipkit.errors import SampleError
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.report.collect.thumbnails import as_webp
from clipkit.evaluation.report.content import SoundClip, Thumbnail
from clipkit.mel import CROPS

_SECONDS: Final = 5
_COLUMNS, _ROWS = 160, 64
_SHADES: Final = ((0.0, 0.35, 0.7, 1.0), (13, 122, 237, 252), (8, 28, 105, 253), (52, 109, 37, 191))
"""Places, and red, green and blue there: dark violet, magenta, orange, light yellow."""

SoundSource = tuple[EvaluationDataset, Sounds]
"""A data set with sounds, and the field that reads them for the tower."""


@final
class SoundClips:
    """Clips of the sounds of a data set, each made once, of bounded size in all.

    Args:
        data: The sounds.
        field: Reads them for the tower, in evaluation.
        captions: Caption of a sound by its sample; others are described by their key.
        max_bytes: Bytes of all uses together; what exceeds it has a spectrogram only.
        max_clip_bytes: Bytes of a clip; a larger one is shortened.
    """

    def __init__(
        self,
        data: EvaluationDataset,
        field: Sounds,
        captions: Mapping[int, str],
        max_bytes: int = 8 * 2**20,
        max_clip_bytes: int = 64 * 2**10,
    ) -> None:
        self._data, self._field, self._captions = data, field, captions
        self._left, self._max_clip_bytes = max_bytes, max_clip_bytes
        self._made: dict[int, SoundClip] = {}
        self._place = CROPS[field.transform.mel.crop]

    def __getitem__(self, sample_id: int) -> SoundClip:
        if sample_id not in self._made:
            self._made[sample_id] = self._clip(sample_id)
        clip = self._made[sample_id]
        if len(clip.data) > self._left:
            return SoundClip(b"", clip.media_type, clip.spectrogram, clip.caption)
        self._left -= len(clip.data)
        return clip

    def _clip(self, sample_id: int) -> SoundClip:
        raw = self._data.members(sample_id, leave_out=IMAGE_EXTENSIONS)
        caption = self._captions.get(sample_id, raw.key)
        with sample_errors(self._data.name, raw.key):
            member = next((name for name in self._field.members if name in raw.members), None)
            if member is None:
                raise SampleError(f"no sound: expected one of {', '.join(self._field.members)}")
            content = raw.members[member]
            data, media_type = sound_preview(
                content, _SECONDS, self._place, self._field.transform.limits, self._max_clip_bytes
            )
            spectrogram = self._field.read(content, np.random.default_rng(0))
        image = Thumbnail(spectrogram_webp(spectrogram), f"Spectrogram: {caption}")
        return SoundClip(data, media_type, image, caption)


def spectrogram_webp(spectrogram: Tensor) -> bytes:
    """Draw a spectrogram [num_mels num_frames], low bands at the bottom, as a small WebP file."""
    return as_webp(Image.fromarray(shaded(spectrogram.numpy())).resize((_COLUMNS, _ROWS)))


def shaded(values: Float32[np.ndarray, "rows columns"]) -> UInt8[np.ndarray, "rows columns 3"]:
    """Return colours of values between their smallest and largest, upside down."""
    low, high = float(values.min()), float(values.max())
    places = (values[::-1] - low) / max(high - low, 1e-12)
    channels = [np.interp(places, _SHADES[0], channel) for channel in _SHADES[1:]]
    return np.stack(channels, axis=-1).astype(np.uint8)
