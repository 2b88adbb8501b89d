"""Embeds texts, images and sounds of queries with the model of a collection."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from clipkit.collection import CollectionInfo
from clipkit.collection.embedding.sounds import sound_reader
from clipkit.data.audio.formats import SoundLimits
from clipkit.data.audio.transforms import EvalSoundTransform
from clipkit.data.samples.content import sample_errors
from clipkit.errors import ClipkitError, ConfigError, DataError, SampleError, first_line
from clipkit.evaluation.hashes import model_hash
from clipkit.mel import Spectrogram
from clipkit.models import TowerEncoder, load_towers
from clipkit.models.checkpoints.kinds import as_dual
from clipkit.models.evaluating import evaluating
from clipkit.models.inputs import token_batches, transform_of
from clipkit.models.named_towers import NamedTowerEncoder
from clipkit.patches import join_images

Pixels = UInt8[Tensor, "3 H W"]
_TEXTS_AT_ONCE: Final = 64


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
        encoder: TowerEncoder | None = None,
        model: str | None = None,
        device: str = "auto",
    ) -> None:
        self._info = info
        self._model = info.model if model is None else model
        self._device = device
        self._lock = threading.Lock()
        self._sound: tuple[str, EvalSoundTransform] | None = None
        self._encoder = None if encoder is None else _checked(encoder, info, "encoder")

    def load(self) -> TowerEncoder:
        """Return the model, loaded if it was not.

        Raises:
            ConfigError: If it cannot be loaded, or is not the model of the collection.
        """
        with self._lock:
            if self._encoder is None:
                try:
                    loaded = load_towers(self._model, self._device, self._info.weights).encoder
                    if not self._info.modalities:  # as it was embedded
                        loaded = as_dual(loaded, self._model)
                except ClipkitError as error:
                    raise ConfigError(
                        f"model of the collection: {first_line(error)}; --model names where it is"
                    ) from error
                self._encoder = _checked(loaded, self._info, self._model)
            return self._encoder

    def texts(self, texts: Sequence[str]) -> Float32[np.ndarray, "texts D"]:
        """Return the unit-norm embeddings of texts.

        Raises:
            ConfigError: As ``load``; if the model has no tower for texts.
        """
        encoder = self._with("text", "texts")
        device = encoder.log_logit_scale.device
        with evaluating(encoder):
            batches = token_batches(encoder.text_tower, texts, _TEXTS_AT_ONCE)
            parts = [encoder.encode_text(tokens.to(device)).float().cpu() for tokens in batches]
        embedded: Float32[np.ndarray, "texts D"] = torch.cat(
            [torch.empty(0, encoder.embedding_dim), *parts]
        ).numpy()
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
            return transform_of(self._with("image", "images").image_tower).of_file(content)
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

    def sound(self, content: bytes) -> Float32[np.ndarray, " D"]:
        """Return the unit-norm embedding of a sound file, read as ``clipkit embed`` reads it.

        Args:
            content: Content of the file.

        Raises:
            ConfigError: As ``load``; if the model has no tower for sounds.
            DataError: If the sound cannot be decoded.
        """
        embedded: Float32[np.ndarray, " D"] = self.sounds([self.spectrogram(content)])[0]
        return embedded

    def spectrogram(self, content: bytes, limits: SoundLimits | None = None) -> Spectrogram:
        """Return the spectrogram of a sound file, read as ``clipkit embed`` reads it.

        Args:
            content: Content of the file.
            limits: Largest sounds; None for those of ``clipkit embed``.

        Raises:
            ConfigError: As ``load``; if the model has no tower for sounds.
            DataError: If the sound cannot be decoded.
        """
        _, transform = self._sounds()
        if limits is not None:
            transform = EvalSoundTransform(transform.mel, limits=limits)
        try:
            with sample_errors():
                return transform.of_file(content)
        except SampleError as error:
            raise DataError(f"sound of the query: {error.reason}") from error

    def sounds(self, spectrograms: Sequence[Spectrogram]) -> Float32[np.ndarray, "B D"]:
        """Return the unit-norm embeddings of sounds, in one forward pass.

        Args:
            spectrograms: What ``spectrogram`` returned for each.

        Raises:
            ConfigError: As ``load``; if the model has no tower for sounds.
        """
        name, _ = self._sounds()
        encoder = self.load()
        assert isinstance(encoder, NamedTowerEncoder), "it has a tower for sounds"
        values = torch.stack(list(spectrograms)).to(encoder.log_logit_scale.device)
        with evaluating(encoder):
            rows = encoder.encode_signal(name, values)
        embedded: Float32[np.ndarray, "B D"] = rows.float().cpu().numpy()
        return embedded

    @property
    def reads_sounds(self) -> bool:
        """Whether the model embedded sounds of the collection, and reads others."""
        return bool(self._info.modalities)

    @property
    def sound_modality(self) -> str:
        """Name of the tower that embeds the sounds of queries.

        Raises:
            ConfigError: As ``load``; if the model has no tower for sounds.
        """
        return self._sounds()[0]

    def _sounds(self) -> tuple[str, EvalSoundTransform]:
        """Return name and transform of the first tower for sounds."""
        if self._sound is None:
            transforms = sound_reader(self.load()).transforms
            if not transforms:
                raise ConfigError(
                    f"query: the model {self._info.model} has no tower for sounds, so it cannot "
                    f"read one; it has {', '.join(self.load().towers)}"
                )
            self._sound = next(iter(transforms.items()))
        return self._sound

    def _with(self, modality: str, named: str) -> TowerEncoder:
        """Return the model, if it has a tower."""
        encoder = self.load()
        if modality not in encoder.towers:
            raise ConfigError(
                f"query: the model {self._info.model} has no tower for {named}, so it cannot read "
                f"one; it has {', '.join(encoder.towers)}"
            )
        return encoder


def _checked(encoder: TowerEncoder, info: CollectionInfo, name: str) -> TowerEncoder:
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
