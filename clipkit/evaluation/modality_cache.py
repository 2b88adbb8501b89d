"""Embeddings of modalities that samples may lack, in the cache of ``cached_embeddings``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from clipkit.data.samples.content import IMAGES_AND_SOUNDS, sample_errors
from clipkit.evaluation.datasets.dataset import EvaluationDataset
from clipkit.evaluation.datasets.modality_loading import ModalityItem
from clipkit.evaluation.embedding_cache import cache_of
from clipkit.evaluation.inference import EmbedOptions
from clipkit.models import TowerEncoder

CachedRows = tuple[Float[Tensor, "N D"], Int64[Tensor, " N"]]
"""Embeddings of one modality, and the sample of each."""


def stored_rows(
    encoder: TowerEncoder, data: EvaluationDataset, options: EmbedOptions, names: Sequence[str]
) -> dict[str, CachedRows] | None:
    """Return the embeddings of modalities from the cache; every rank calls this.

    Args:
        encoder: The model.
        data: Samples, which may lack any of the modalities.
        options: Limit and precision are those of the embeddings.
        names: Modalities whose files the encoder alone determines how to read.

    Returns:
        The embeddings; None without a cache, or unless it has those of all names.
    """
    if (cache := cache_of(encoder)) is None:
        return None
    count = len(data) if options.limit is None else min(len(data), options.limit)
    loaded = {n: cache.load(cache.modality_key(data, options, n), count) for n in names}
    rows = dict[str, CachedRows]()
    for name, values in loaded.items():
        if values is None:
            return None
        is_there = ~values.isnan().any(dim=1)
        rows[name] = values[is_there], is_there.nonzero()[:, 0]
    return rows


def store_rows(
    encoder: TowerEncoder,
    data: EvaluationDataset,
    options: EmbedOptions,
    rows: Mapping[str, CachedRows],
    num_samples: int,
) -> None:
    """Write the embeddings of modalities to the cache, if there is one.

    A sample without a modality has NaN in its row. Embeddings that are not finite are not kept.
    """
    if (cache := cache_of(encoder)) is None:
        return
    for name, (values, samples) in rows.items():
        if bool(values.isfinite().all()):
            every = torch.full((num_samples, encoder.embedding_dim), torch.nan)
            every[samples] = values
            cache.store(cache.modality_key(data, options, name), every)


def items_without_files(
    data: EvaluationDataset, ids: Sequence[int], with_captions: bool
) -> list[ModalityItem]:
    """Return keys and captions of samples; neither images nor sounds are read."""
    items = []
    for number in ids:
        raw = data.members(number, leave_out=IMAGES_AND_SOUNDS)
        with sample_errors(data.name, raw.key):
            captions = data.captions_of(raw.members) if with_captions else ()
        items.append(ModalityItem(raw.key, None, captions, {}, ()))
    return items
