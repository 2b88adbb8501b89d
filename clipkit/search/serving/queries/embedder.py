"""Embed texts, images and sounds of many clients with one model, in batches, one at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import numpy as np
from jaxtyping import Float32

from clipkit.mel import Spectrogram
from clipkit.search.query_encoder import Pixels, QueryEncoder
from clipkit.search.serving.kept import LeastRecentlyUsed
from clipkit.search.serving.work import Batcher, DaemonThreads

Vector = Float32[np.ndarray, " D"]
_MOST_REQUESTS: Final = 32
_MOST_IMAGES: Final = 8
_KEPT_TEXTS: Final = 4096


@final
class Embedder:
    """Embeds texts, images and sounds for concurrent requests.

    Those that wait are embedded in one forward pass per tower. Embeddings of the last
    texts are kept.

    Args:
        encoder: The model.
        waiting: Number of texts, of images, and of sounds that may wait.
    """

    def __init__(self, encoder: QueryEncoder, waiting: int) -> None:
        self._encoder = encoder
        self._thread = DaemonThreads(1, "model")
        self._kept: LeastRecentlyUsed[str, Vector] = LeastRecentlyUsed(_KEPT_TEXTS)
        self._texts: Batcher[tuple[str, ...], Float32[np.ndarray, "texts D"]] = Batcher(
            "the text tower", self._embed_texts, self._thread, _MOST_REQUESTS, waiting
        )
        self._images: Batcher[Pixels, Vector] = Batcher(
            "the image tower", self._embed_images, self._thread, _MOST_IMAGES, waiting
        )
        self._sounds: Batcher[Spectrogram, Vector] = Batcher(
            "the sound tower", self._embed_sounds, self._thread, _MOST_IMAGES, waiting
        )

    async def texts(self, texts: Sequence[str]) -> list[Vector]:
        """Return the unit-norm embeddings of texts.

        Raises:
            HttpError: 503 if too many requests wait.
        """
        found = {text: self._kept.get(text) for text in texts}
        missing = tuple(text for text, vector in found.items() if vector is None)
        if missing:
            for text, vector in zip(missing, await self._texts.run(missing), strict=True):
                found[text] = vector
                self._kept.put(text, vector)
        vectors = [found[text] for text in texts]
        return [vector for vector in vectors if vector is not None]

    async def prompts(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts D"]:
        """Return the unit-norm embeddings of texts that are not kept.

        Raises:
            HttpError: 503 if too many requests wait.
        """
        return await self._texts.run(tuple(texts))

    async def image(self, pixels: Pixels) -> Vector:
        """Return the unit-norm embedding of an image as ``QueryEncoder.pixels`` returns it.

        Raises:
            HttpError: 503 if too many images wait.
        """
        return await self._images.run(pixels)

    async def sound(self, spectrogram: Spectrogram) -> Vector:
        """Return the unit-norm embedding of a sound; see ``QueryEncoder.spectrogram``.

        Raises:
            HttpError: 503 if too many sounds wait.
        """
        return await self._sounds.run(spectrogram)

    def close(self) -> None:
        """Drop what waits; what runs ends by itself."""
        self._thread.shutdown(cancel_futures=True)

    def _embed_texts(
        self, groups: Sequence[tuple[str, ...]]
    ) -> list[Float32[np.ndarray, "texts D"]]:
        different = list(dict.fromkeys(text for group in groups for text in group))
        places = {text: place for place, text in enumerate(different)}
        vectors = self._encoder.texts(different)
        return [vectors[[places[text] for text in group]] for group in groups]

    def _embed_images(self, pixels: Sequence[Pixels]) -> list[Vector]:
        return list(self._encoder.images(pixels))

    def _embed_sounds(self, spectrograms: Sequence[Spectrogram]) -> list[Vector]:
        return list(self._encoder.sounds(spectrograms))
