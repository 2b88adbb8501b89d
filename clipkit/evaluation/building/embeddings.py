"""Near-duplicates and hard negatives by the embeddings of a model."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Final, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from clipkit.data.images.formats import image_member
from clipkit.data.packing.items import Item
from clipkit.errors import ConfigError
from clipkit.evaluation.building.duplicates.pair_search import NearPairs, distinct_pairs
from clipkit.evaluation.building.options import SampleFields
from clipkit.evaluation.building.scan import OnProgress, captions_of
from clipkit.evaluation.datasets.dataset import EvaluationSample
from clipkit.evaluation.datasets.loading import decoded_chunks
from clipkit.evaluation.datasets.queries import IMAGES
from clipkit.evaluation.embedding import encode_texts, tokenizer_of
from clipkit.evaluation.inference import EmbedOptions
from clipkit.models import DualEncoder
from clipkit.models.evaluating import evaluating
from clipkit.types import IGNORE_LABEL

_TILE: Final = 4096
_MOST_PAIRS_PER_IMAGE: Final = 64
_SPARE: Final = 64
"""Candidates in addition to the wanted ones, because some of them match."""


@final
class ItemSamples:
    """Samples of a source in the form that embedding reads.

    Args:
        name: Name of the source in messages.
        items: Samples of the source.
        keys: Name of each sample.
        fields: Where captions are.
    """

    modality = IMAGES

    def __init__(
        self, name: str, items: Sequence[Item], keys: Sequence[str], fields: SampleFields
    ) -> None:
        self.name = name
        self._items = items
        self._keys = keys
        self._fields = fields

    def __len__(self) -> int:
        return len(self._items)

    def sample(self, sample_id: int) -> EvaluationSample:
        """Read one sample."""
        members = self._items[sample_id].members()
        captions = captions_of(members, self._fields)
        image = image_member(members)
        return EvaluationSample(self._keys[sample_id], image, captions, IGNORE_LABEL)


def embed_images(
    encoder: DualEncoder, samples: ItemSamples, options: EmbedOptions, on_progress: OnProgress
) -> Float[np.ndarray, "N D"]:
    """Return unit-norm embeddings of all images, in a temporary file instead of in memory."""
    shape = (len(samples), encoder.embedding_dim)
    with tempfile.TemporaryFile() as file:
        rows: Float[np.ndarray, "N D"] = np.memmap(file, np.float32, "w+", shape=shape)
    done = 0
    device = encoder.log_logit_scale.device
    with evaluating(encoder, options.precision):
        for chunk in decoded_chunks(encoder, samples, range(len(samples)), options):
            embedded = encoder.encode_image(*chunk.on(device)).float().cpu().numpy()
            rows[done : done + len(embedded)] = embedded
            done += len(embedded)
            on_progress("embedding images", done, len(samples))
    return rows


def embed_captions(
    encoder: DualEncoder, captions: Sequence[str], options: EmbedOptions
) -> Float[Tensor, "texts D"]:
    """Return unit-norm embeddings of captions, on the CPU."""
    with evaluating(encoder, options.precision):
        return encode_texts(encoder, tokenizer_of(encoder), captions, options.batch_size).cpu()


def duplicate_embeddings(
    rows: Float[np.ndarray, "N D"], least_similarity: float, on_progress: OnProgress
) -> NearPairs:
    """Find pairs of images whose embeddings have a cosine similarity of ``least_similarity``.

    Raises:
        ConfigError: If nearly all images are alike.
    """
    found: list[NearPairs] = []
    num_pairs = 0
    for start in range(0, len(rows), _TILE):
        first = torch.from_numpy(np.array(rows[start : start + _TILE]))
        for other in range(start, len(rows), _TILE):
            table = first @ torch.from_numpy(np.array(rows[other : other + _TILE])).T
            near = table >= least_similarity
            if other == start:
                near = near.triu(1)
            a, b = near.nonzero().T.numpy()
            found.append(NearPairs(a + start, b + other, table[near].numpy()))
            num_pairs += len(a)
            if num_pairs > _MOST_PAIRS_PER_IMAGE * len(rows):
                raise ConfigError(
                    f"embedding_similarity: {num_pairs} pairs of {len(rows)} images have a cosine "
                    f"similarity of at least {least_similarity}; this model does not distinguish "
                    f"them: choose a higher threshold or another model"
                )
        on_progress("comparing embeddings", min(start + _TILE, len(rows)), len(rows))
    return distinct_pairs(found, len(rows), smallest=False)


def nearest(scores: Float[Tensor, " N"], most: int) -> list[int]:
    """Return the rows with the highest scores, the best first, and some more than ``most``."""
    values, rows = scores.topk(min(most + _SPARE, len(scores)))
    return [row for _, row in sorted(zip((-values).tolist(), rows.tolist(), strict=True))]
