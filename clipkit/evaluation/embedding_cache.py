"""Embeddings on disk, by hashes of the model, the data and the options that change them."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

import clipkit
from clipkit.atomic_files import new_file
from clipkit.distributed.collectives import gather_sizes, rank
from clipkit.evaluation.datasets.queries import IMAGES
from clipkit.evaluation.datasets.sample_source import DataSource
from clipkit.evaluation.hashes import model_hash, text_hash
from clipkit.evaluation.inference import EmbedOptions
from clipkit.models import TowerEncoder

_LOG: Final = logging.getLogger(__name__)
_FORMAT: Final = "clipkit-embeddings-1"


@final
class EmbeddingCache:
    """A folder with the embeddings of images and texts; see ``cached_embeddings``.

    Args:
        folder: The folder.
        encoder: The model, whose weights do not change as long as the cache is used.
    """

    def __init__(self, folder: Path | str, encoder: TowerEncoder) -> None:
        self.encoder = encoder
        self._folder = Path(folder)
        self._device = encoder.log_logit_scale.device
        self._width = encoder.embedding_dim
        self._model = model_hash(encoder)

    def images_key(self, data: DataSource, options: EmbedOptions) -> str | None:
        """Return the key of the images of a data set; None if they cannot be identified."""
        if not data.modality.is_named:
            return None
        kind = "images" if data.modality is IMAGES else data.modality.name
        return self._key_of_data(kind, data, options)

    def modality_key(self, data: DataSource, options: EmbedOptions, name: str) -> str | None:
        """Return the key of a modality that samples may lack; None as for ``images_key``."""
        return self._key_of_data(f"present {name}", data, options)

    def _key_of_data(self, kind: str, data: DataSource, options: EmbedOptions) -> str | None:
        index = data.index
        shards = [[s.url, s.size_bytes, s.stamp, s.digest] for s in index.shards] if index else []
        is_known = all(stamp or digest for _, _, stamp, digest in shards)
        if self._model is None or not shards or not is_known:
            return None
        return self._key(kind, shards, data.variant, options.limit, options.precision)

    def texts_key(self, texts: Sequence[str]) -> str | None:
        """Return the key of texts; None if the model cannot be identified."""
        if self._model is None:
            return None
        kind = self._device.type
        is_reduced = torch.is_autocast_enabled(kind)
        precision = str(torch.get_autocast_dtype(kind)) if is_reduced else "fp32"
        return self._key("texts", list(texts), precision)

    def load(self, key: str | None, num_rows: int) -> Float[Tensor, "N D"] | None:
        """Return the embeddings under a key if they are complete on every rank, else None."""
        rows = None if key is None else self._read(self._path(key), num_rows)
        on_ranks = gather_sizes(int(rows is not None), device=self._device)
        return rows if all(is_there for (is_there,) in on_ranks) else None

    def store(self, key: str | None, rows: Float[Tensor, "N D"]) -> None:
        """Write embeddings on the first rank; a disk that is full only costs the next run time."""
        if key is None or rank() > 0:
            return
        path = self._path(key)
        try:
            with new_file(path) as temporary, temporary.open("wb") as file:
                np.savez(file, format=np.array(_FORMAT), rows=rows.float().cpu().numpy())
        except OSError as error:
            _LOG.warning("%s: embeddings are not kept: %s", path, error.strerror or error)

    def _key(self, *parts: object) -> str:
        return text_hash(_FORMAT, clipkit.__version__, self._model, self._device.type, *parts)

    def _path(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.npz"

    def _read(self, path: Path, num_rows: int) -> Float[Tensor, "N D"] | None:
        """Read a file; a damaged one counts as absent, and is replaced."""
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                found, rows = str(file["format"]), file["rows"]
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            _LOG.warning("%s: damaged, its embeddings are computed again: %s", path, error)
            return None
        if found != _FORMAT or rows.shape != (num_rows, self._width) or rows.dtype != np.float32:
            _LOG.warning("%s: expected %d embeddings, computing them again", path, num_rows)
            return None
        return torch.from_numpy(rows)


_CURRENT: Final = ContextVar[EmbeddingCache | None]("embedding_cache", default=None)


@contextmanager
def cached_embeddings(encoder: TowerEncoder, folder: Path | str | None) -> Iterator[None]:
    """Read embeddings of an encoder from a folder, and write new ones there, within this block.

    The key of images is a hash of the model's weights and architecture with its image transform, of
    the shards (addresses, sizes, times of change, tables), limit, precision, kind of device, and
    clipkit's version; that of texts is a hash of the model and the texts. Nothing is ever deleted.
    Retrieval between more modalities than images and texts keeps only its captions if one of them
    is read by a field that was given.

    Args:
        encoder: The model; it must not change within the block.
        folder: The folder; None for no cache.

    Examples:
        >>> with cached_embeddings(encoder, "embeddings"):
        ...     recalls = Retrieval("data/val").run(encoder)
    """
    token = _CURRENT.set(None if folder is None else EmbeddingCache(folder, encoder))
    try:
        yield
    finally:
        _CURRENT.reset(token)


def cache_of(encoder: TowerEncoder) -> EmbeddingCache | None:
    """Return the cache of the block ``cached_embeddings`` of this encoder, if any."""
    cache = _CURRENT.get()
    return cache if cache is not None and cache.encoder is encoder else None
