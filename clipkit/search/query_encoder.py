"""Embeds texts and images of queries with the model of a collection."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import final

import numpy as np
from jaxtyping import Float32, UInt8
from torch import Tensor

from clipkit.collection import CollectionInfo
from clipkit.errors import ClipkitError, ConfigError, DataError, SampleError, first_line
from clipkit.evaluation.hashes import model_hash
from clipkit.models import DualEncoder, load_model
from clipkit.models.evaluating import evaluating
from clipkit.models.inputs import transform_of
from clipkit.patches import join_images

Pixels = UInt8[Tensor, "3 H W"]


@final
class QueryEncoder:
    """The model of a collection, loaded at the first use; safe for threads.

    Args:
        info: Content of the collection's ``collection.json``.
        encoder: The model; None to load it by name.
        model: Name or path of the model; None for the one in ``info``.
        device: A torch device, or "auto" for a GPU if there is one.
    """

    def __init__(
        self,
        info: CollectionInfo,
        encoder: DualEncoder | None = None,
        model: str | None = None,
        device: str = "auto",
    ) -> None:
        self._info = info
        self._model = info.model if model is None else model
        self._device = device
        self._lock = threading.Lock()
        self._encoder = None if encoder is None else _checked(encoder, info, "encoder")

    def load(self) -> DualEncoder:
        """Return the model, loaded if it was not.

        Raises:
            ConfigError: If it cannot be loaded, or is not the model of the collection.
        """
        with self._lock:
            if self._encoder is None:
                try:
                    loaded = load_model(self._model, self._device, self._info.weights)
                except ClipkitError as error:
                    raise ConfigError(
                        f"model of the collection: {first_line(error)}; --model names where it is"
                    ) from error
                self._encoder = _checked(loaded.encoder, self._info, self._model)
            return self._encoder

    def texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts D"]:
        """Return the unit-norm embeddings of texts.

        Raises:
            ConfigError: As ``load``.
        """
        embedded: Float32[np.ndarray, "texts D"] = self.load().encode(texts).texts.numpy()
        return embedded

    def image(self, content: bytes) -> Float32[np.ndarray, " D"]:
        """Return the unit-norm embedding of an image file, read as ``clipkit embed`` reads it.

        Args:
            content: Content of the file.

        Raises:
            ConfigError: As ``load``.
            DataError: If the image cannot be decoded.
        """
        embedded: Float32[np.ndarray, " D"] = self.images([self.pixels(content)])[0]
        return embedded

    def pixels(self, content: bytes) -> Pixels:
        """Return the pixels of an image file, read as ``clipkit embed`` reads it.

        Args:
            content: Content of the file.

        Raises:
            ConfigError: As ``load``.
            DataError: If the image cannot be decoded.
        """
        try:
            return transform_of(self.load().image_tower).of_file(content)
        except SampleError as error:
            raise DataError(f"image of the query: {error.reason}") from error

    def images(self, pixels: Sequence[Pixels]) -> Float32[np.ndarray, "B D"]:
        """Return the unit-norm embeddings of images, in one forward pass.

        Args:
            pixels: What ``pixels`` returned for each.

        Raises:
            ConfigError: As ``load``.
        """
        encoder = self.load()
        images, grids = join_images(pixels, encoder.image_tower.budget)
        device = encoder.log_logit_scale.device
        with evaluating(encoder):
            rows = encoder.encode_image(
                images.to(device), None if grids is None else grids.to(device)
            )
        embedded: Float32[np.ndarray, "B D"] = rows.float().cpu().numpy()
        return embedded


def _checked(encoder: DualEncoder, info: CollectionInfo, name: str) -> DualEncoder:
    """Refuse a model that did not embed the collection."""
    if encoder.embedding_dim != info.embedding_dim:
        raise ConfigError(
            f"{name}: expected the model {info.model} of the collection, with embeddings of "
            f"{info.embedding_dim} components, got one with {encoder.embedding_dim}"
        )
    found = model_hash(encoder)
    if info.model_hash and found is not None and found != info.model_hash:
        raise ConfigError(
            f"{name}: expected the model {info.model} that embedded the collection (hash "
            f"{info.model_hash}), got other weights, image transform or tokenizer (hash {found}); "
            "use that model, or embed the data again"
        )
    return encoder
