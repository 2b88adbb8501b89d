"""Load a collection for serving, with progress."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np

from clipkit.collection import Collection, CollectionImages
from clipkit.models import DualEncoder
from clipkit.search.modalities import searched_modality
from clipkit.search.searcher import Searcher
from clipkit.search.serving.options import ServeOptions
from clipkit.search.serving.service import Service

Report = Callable[[float, str], None]
"""Reports the loaded share, 0 to 1, and what is being loaded."""

_MODEL_FROM: Final = 0.1
_VECTORS_FROM: Final = 0.5
_WARM_FROM: Final = 0.95
_PAGE_BYTES: Final = 4096
_MEMORY_SHARE: Final = 0.5


def load_service(
    folder: Path | str,
    options: ServeOptions,
    report: Report,
    encoder: DualEncoder | None = None,
) -> Service:
    """Load a collection, its engine and its model.

    Args:
        folder: A folder that ``clipkit embed`` wrote.
        options: Model, device and limits.
        report: Called with the progress.
        encoder: The model; None to load it.

    Raises:
        ClipkitError: If the collection or the model cannot be loaded.
    """
    report(0.0, "reading the tables of the collection")
    searcher = Searcher(folder, encoder, model=options.model, device=options.device)
    report(_MODEL_FROM, f"loading the model {searcher.collection.info.model}")
    searcher.encoder.load()
    others = _others(searcher, folder)
    _read_vectors(searcher.collection, report)
    report(_WARM_FROM, "searching for the first time")
    service = Service(searcher, CollectionImages(searcher.collection).read, options.limits, others)
    query = np.zeros((1, searcher.collection.info.embedding_dim), dtype=np.float32)
    query[0, 0] = 1
    if "text" in searcher.encoder.load().towers:
        query = searcher.encoder.texts(["a photo"])  # the tokenizer is loaded
    for each in (searcher, *others):
        each.engine.search(query / np.linalg.norm(query), 1, each.masks.mask(()))
    return service


def _others(searcher: Searcher, folder: Path | str) -> list[Searcher]:
    """Return searchers for the further modalities of which there is an embedding."""
    collection, model = searcher.collection, searcher.encoder.load()
    return [
        Searcher(folder, model, modality=name)
        for name in collection.info.modalities
        if name != searcher.modality and collection.embedded_rows(name).any()
    ]


def _read_vectors(collection: Collection, report: Report) -> None:
    """Read the embeddings into the system's page cache, so that no query waits for the disk."""
    total = len(collection) * collection.info.embedding_dim * np.dtype(np.float16).itemsize
    if total > _MEMORY_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"):
        return  # the first would be dropped before the last are read
    done = 0
    kind = searched_modality(collection, None)
    for _, images in collection.tiles(kind):
        np.asarray(images).reshape(-1).view(np.uint8)[::_PAGE_BYTES].max(initial=0)
        done += images.nbytes
        share = done / max(total, 1)
        report(
            _VECTORS_FROM + (_WARM_FROM - _VECTORS_FROM) * share,
            f"reading the embeddings ({done / 1e6:,.0f} of {total / 1e6:,.0f} MB)",
        )
