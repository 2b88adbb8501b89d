"""Write embeddings as NumPy files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from clipkit.atomic_files import new_folder, write_json
from clipkit.evaluation.embedding import EmbeddedPairs


def save_embeddings(
    pairs: EmbeddedPairs, folder: Path | str, details: Mapping[str, Any] | None = None
) -> None:
    """Write embeddings to a folder, all files or none.

    ``images.npy`` is float32 ``[N, D]``, ``texts.npy`` float32 ``[M, D]``, ``text_to_image.npy``
    int64 ``[M]`` (row of each text's image); ``keys.json`` lists the keys of the samples and the
    captions.

    Args:
        pairs: Embeddings of N images and M texts.
        folder: The folder; an existing one is replaced.
        details: Further entries of ``keys.json``, such as the name of the model; None for none.

    Examples:
        >>> pairs = embed_pairs(encoder, open_dataset("data/val"), EmbedOptions())
        >>> save_embeddings(pairs, "embeddings", {"model": "tiny"})
        >>> np.load("embeddings/images.npy").shape[0]
        9
    """
    content = {"keys": pairs.keys, "captions": pairs.captions, **(details or {})}
    with new_folder(folder) as temporary:
        np.save(temporary / "images.npy", pairs.images.numpy())
        np.save(temporary / "texts.npy", pairs.texts.numpy())
        np.save(temporary / "text_to_image.npy", pairs.text_to_image.numpy())
        write_json(temporary / "keys.json", content)
