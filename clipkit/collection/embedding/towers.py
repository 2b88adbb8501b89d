"""Embeddings of one batch as checked float16 rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float, Float16
from torch import Tensor

from clipkit.collection.embedding.reading import ReadBatch
from clipkit.errors import NonFiniteError
from clipkit.models import TowerEncoder
from clipkit.models.named_towers import NamedTowerEncoder

_NORM_TOLERANCE: Final = 0.02
"""Largest difference from 1 of the length of an embedding; that of bf16 is below 0.01."""

HalfRows = Float16[np.ndarray, "B D"]


@final
class Towers:
    """The towers of an encoder, whose embeddings are unit vectors or an error.

    Args:
        encoder: The model, in evaluation mode.
        model: Name of the model in messages.
        precision: Precision of the towers in messages.
    """

    def __init__(self, encoder: TowerEncoder, model: str, precision: str) -> None:
        self.embedding_dim = encoder.embedding_dim
        self._encoder = encoder
        self._device = encoder.log_logit_scale.device
        self._what = f"{model} ({precision})"

    def embed_images(self, batch: ReadBatch, url: str) -> HalfRows:
        """Return the embeddings of the images of a batch; zeros for those without pixels.

        Args:
            batch: The batch.
            url: Address of its shard, for messages.

        Raises:
            NonFiniteError: If an embedding is not a unit vector.
        """
        rows = np.zeros((len(batch.columns["key"]), self.embedding_dim), dtype=np.float16)
        if batch.images is not None:
            pixels, grids = batch.images
            grids = None if grids is None else grids.to(self._device)
            images = self._encoder.encode_image(pixels.to(self._device), grids)
            names = [f"{url}: image {batch.columns['key'][place]}" for place in batch.places]
            rows[batch.places] = self._checked(images, names)
        return rows

    def embed_texts(self, batch: ReadBatch, url: str) -> HalfRows:
        """Return the embeddings of all captions of a batch, sample by sample.

        Args:
            batch: The batch.
            url: Address of its shard, for messages.

        Raises:
            NonFiniteError: If an embedding is not a unit vector.
        """
        columns = zip(batch.columns["key"], batch.columns["captions"], strict=True)
        names = [f"{url}: caption of {key}" for key, captions in columns for _ in captions]
        rows = [np.zeros((0, self.embedding_dim), dtype=np.float16)]
        for tokens in batch.tokens:
            start = sum(map(len, rows))
            texts = self._encoder.encode_text(tokens.to(self._device))
            rows.append(self._checked(texts, names[start:]))
        return np.concatenate(rows)

    def embed_signals(self, name: str, batch: ReadBatch, url: str) -> HalfRows:
        """Return the embeddings of a further modality; zeros for samples that lack it.

        Args:
            name: Name of the modality.
            batch: The batch.
            url: Address of its shard, for messages.

        Raises:
            NonFiniteError: If an embedding is not a unit vector.
        """
        rows = np.zeros((len(batch.columns["key"]), self.embedding_dim), dtype=np.float16)
        if name in batch.signals:
            assert isinstance(self._encoder, NamedTowerEncoder), "it has the tower"
            places, values = batch.signals[name]
            embedded = self._encoder.encode_signal(name, values.to(self._device))
            names = [f"{url}: {name} of {batch.columns['key'][place]}" for place in places]
            rows[places] = self._checked(embedded, names)
        return rows

    def _checked(self, rows: Float[Tensor, "B D"], names: Sequence[str]) -> HalfRows:
        norms = torch.linalg.vector_norm(rows.float(), dim=-1).cpu()
        is_unit = (norms - 1).abs() <= _NORM_TOLERANCE  # False for NaN
        if not is_unit.all():
            bad = int(torch.nonzero(~is_unit)[0])
            raise NonFiniteError(
                f"{names[bad]}: expected a unit vector from the model {self._what}, got one of "
                f"length {norms[bad]:g}; check the model's weights, or use --precision fp32"
            )
        half: HalfRows = rows.float().cpu().numpy().astype(np.float16)
        return half
