"""Uploaded images and sounds: decoded within bounds, embedded, and kept as embeddings only."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final, final

from clipkit.data.audio.decode import sound_info
from clipkit.data.audio.formats import SoundLimits, sound_kind
from clipkit.errors import DataError, SampleError
from clipkit.mel import Spectrogram
from clipkit.search.modalities import IMAGE
from clipkit.search.query_encoder import Pixels, QueryEncoder
from clipkit.search.serving.failures import HttpError
from clipkit.search.serving.images.decoding import checked_image, upright_size
from clipkit.search.serving.images.image_types import IMAGE_TYPES, image_type
from clipkit.search.serving.kept import LeastRecentlyUsed
from clipkit.search.serving.options import Limits
from clipkit.search.serving.queries.embedder import Embedder, Vector
from clipkit.search.serving.work import WorkPool

_ID_BYTES: Final = 16
_MOST_SAMPLES: Final = 2**24
"""Samples of all channels of a sound that are decoded at once: 64 MiB."""


@dataclass(frozen=True, slots=True, eq=False)
class KeptUpload:
    """An uploaded image or sound, of which only this is kept.

    Args:
        name: Its name, under which other requests use it.
        vector: Its embedding.
        modality: What it is: "image", or the name of the tower that embedded a sound.
        width_pixels: Width of an image as it is shown; None for a sound.
        height_pixels: Height of an image as it is shown; None for a sound.
        seconds: Duration of a sound; None for an image, and if its header does not say.
    """

    name: str
    vector: Vector
    modality: str
    width_pixels: int | None = None
    height_pixels: int | None = None
    seconds: float | None = None


@final
class Uploads:
    """Embeds uploaded images and sounds, and keeps the embeddings of the last ones.

    The name of an upload is a hash of its bytes with a secret of this process: the same file has
    the same name, and the name of another client's file cannot be guessed.

    Args:
        encoder: Reads files as the model does.
        embedder: Embeds them.
        pool: Threads that decode them.
        limits: Largest images and sounds, and number of uploads that are kept.
    """

    def __init__(
        self,
        encoder: QueryEncoder,
        embedder: Embedder,
        pool: WorkPool,
        limits: Limits,
    ) -> None:
        self._encoder = encoder
        self._embedder = embedder
        self._pool = pool
        self._most_pixels = limits.upload_pixels
        self._sound_limits = SoundLimits(
            max_bytes=limits.upload_bytes,
            max_seconds=limits.upload_seconds,
            max_samples=_MOST_SAMPLES,
        )
        self._kept: LeastRecentlyUsed[str, KeptUpload] = LeastRecentlyUsed(limits.kept_uploads)
        self._key = secrets.token_bytes(_ID_BYTES)

    async def add(self, content: bytes) -> KeptUpload:
        """Decode and embed an image file, or a sound file if the model has a tower for sounds.

        Raises:
            HttpError: 415 if it is neither, 422 if it is damaged or too large, 503 if too many
                wait.
        """
        is_sound = self._encoder.reads_sounds and sound_kind(content) is not None
        if not is_sound and image_type(content) is None:
            names = ", ".join(each.name for each in IMAGE_TYPES)
            expected = f"image: expected a file of type {names}"
            if self._encoder.reads_sounds:
                expected += ", or a sound of type WAV, FLAC, OGG, MP3"
            found = "an empty body" if not content else "a file of no such type"
            raise HttpError(415, f"{expected}, got {found}")
        name = hashlib.blake2b(content, digest_size=_ID_BYTES, key=self._key).hexdigest()
        kept = self._kept.get(name)
        if kept is None:
            kept = await (self._sound if is_sound else self._image)(name, content)
            self._kept.put(name, kept)
        return kept

    async def _image(self, name: str, content: bytes) -> KeptUpload:
        (width, height), pixels = await self._pool.run(self._decoded, content)
        return KeptUpload(name, await self._embedder.image(pixels), IMAGE, width, height)

    async def _sound(self, name: str, content: bytes) -> KeptUpload:
        seconds, spectrogram = await self._pool.run(self._heard, content)
        vector = await self._embedder.sound(spectrogram)
        return KeptUpload(name, vector, self._encoder.sound_modality, seconds=seconds)

    def get(self, name: str) -> KeptUpload:
        """Return an upload.

        Raises:
            HttpError: 404 if it is not kept.
        """
        kept = self._kept.get(name)
        if kept is None:
            raise HttpError(404, f"upload: {name} is not kept any more; upload the file again")
        return kept

    def _decoded(self, content: bytes) -> tuple[tuple[int, int], Pixels]:
        try:
            size = upright_size(checked_image(content, self._most_pixels), content)
            return size, self._encoder.pixels(content)
        except SampleError as error:
            raise HttpError(422, f"image: {error.reason}") from error
        except DataError as error:
            raise HttpError(422, str(error)) from error

    def _heard(self, content: bytes) -> tuple[float | None, Spectrogram]:
        try:
            spectrogram = self._encoder.spectrogram(content, self._sound_limits)
            return sound_info(content, self._sound_limits).seconds, spectrogram
        except SampleError as error:
            raise HttpError(422, f"sound: {error.reason}") from error
        except DataError as error:
            raise HttpError(422, str(error)) from error
