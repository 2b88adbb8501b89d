"""Uploaded images: decoded within bounds, embedded, and kept as their embeddings only."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import Final, final

from clipkit.errors import DataError, SampleError
from clipkit.search.query_encoder import Pixels, QueryEncoder
from clipkit.search.serving.failures import HttpError
from clipkit.search.serving.images.decoding import checked_image, upright_size
from clipkit.search.serving.images.image_types import IMAGE_TYPES, image_type
from clipkit.search.serving.kept import LeastRecentlyUsed
from clipkit.search.serving.queries.embedder import Embedder, Vector
from clipkit.search.serving.work import WorkPool

_ID_BYTES: Final = 16


@dataclass(frozen=True, slots=True, eq=False)
class KeptUpload:
    """An uploaded image, of which only this is kept.

    Args:
        name: Its name, under which other requests use it.
        width_pixels: Width as it is shown.
        height_pixels: Height as it is shown.
        vector: Its embedding.
    """

    name: str
    width_pixels: int
    height_pixels: int
    vector: Vector


@final
class Uploads:
    """Embeds uploaded images and keeps the embeddings of the last ones.

    The name of an upload is a hash of its bytes with a secret of this process: the same image has
    the same name, and the name of another client's image cannot be guessed.

    Args:
        encoder: Reads images as the model does.
        embedder: Embeds them.
        pool: Threads that decode them.
        most_pixels: Largest number of pixels of an image.
        num_kept: Number of uploads that are kept.
    """

    def __init__(
        self,
        encoder: QueryEncoder,
        embedder: Embedder,
        pool: WorkPool,
        most_pixels: int,
        num_kept: int,
    ) -> None:
        self._encoder = encoder
        self._embedder = embedder
        self._pool = pool
        self._most_pixels = most_pixels
        self._kept: LeastRecentlyUsed[str, KeptUpload] = LeastRecentlyUsed(num_kept)
        self._key = secrets.token_bytes(_ID_BYTES)

    async def add(self, content: bytes) -> KeptUpload:
        """Decode and embed an image file.

        Raises:
            HttpError: 415 if it is no image, 422 if it is damaged or too large, 503 if too many
                wait.
        """
        if image_type(content) is None:
            names = ", ".join(each.name for each in IMAGE_TYPES)
            found = "an empty body" if not content else "a file of no such type"
            raise HttpError(415, f"image: expected a file of type {names}, got {found}")
        name = hashlib.blake2b(content, digest_size=_ID_BYTES, key=self._key).hexdigest()
        kept = self._kept.get(name)
        if kept is None:
            (width, height), pixels = await self._pool.run(self._decoded, content)
            kept = KeptUpload(name, width, height, await self._embedder.image(pixels))
            self._kept.put(name, kept)
        return kept

    def get(self, name: str) -> KeptUpload:
        """Return an upload.

        Raises:
            HttpError: 404 if it is not kept.
        """
        kept = self._kept.get(name)
        if kept is None:
            raise HttpError(404, f"upload: {name} is not kept any more; upload the image again")
        return kept

    def _decoded(self, content: bytes) -> tuple[tuple[int, int], Pixels]:
        try:
            size = upright_size(checked_image(content, self._most_pixels), content)
            return size, self._encoder.pixels(content)
        except SampleError as error:
            raise HttpError(422, f"image: {error.reason}") from error
        except DataError as error:
            raise HttpError(422, str(error)) from error
