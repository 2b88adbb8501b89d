"""Order the best hits of a text by a joint encoder, which reads their image files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch

from clipkit.collection import Collection, CollectionImages
from clipkit.errors import ConfigError, DataError, NonFiniteError, SampleError, check_at_least
from clipkit.models import JointEncoder, pair_scores, reranking_scores
from clipkit.models.evaluating import evaluating
from clipkit.models.inputs import tokenizer_of, transform_of
from clipkit.patches import join_images
from clipkit.search.searcher import Hit

_BATCH: Final = 64


def reranked_hits(
    joint: JointEncoder, collection: Collection, text: str, hits: Sequence[Hit], num_best: int
) -> list[Hit]:
    """Return hits with the best in the order of a joint encoder; the others keep their places.

    It is that of ``clipkit.models.reranking_scores``, with similarities of the joint encoder's own
    towers.

    Args:
        joint: Encoder that fuses images and texts, in evaluation mode; it need not be the model
            that embedded the collection.
        collection: The collection, whose shards are where they were.
        text: The text that was searched for.
        hits: Hits, the most similar first.
        num_best: Number of hits that are scored again.

    Raises:
        ConfigError: If the encoder fuses other modalities, or ``num_best`` is less than 1.
        DataError: If an image cannot be read.
        NonFiniteError: If a score is NaN or infinite.
    """
    check_at_least("rerank", num_best, 1)
    if {*joint.fused_names} != {"image", "text"}:
        raise ConfigError(
            f"rerank: expected an encoder that fuses images and texts, got one that fuses "
            f"{', '.join(joint.fused_names)}"
        )
    best = list(hits[:num_best])
    scores: list[float] = []
    files, device = CollectionImages(collection), joint.log_logit_scale.device
    transform, tower = transform_of(joint.image_tower), joint.image_tower
    with evaluating(joint):
        words = joint.read_text(tokenizer_of(joint.text_tower)([text]).to(device))
        for start in range(0, len(best), _BATCH):
            part = best[start : start + _BATCH]
            try:
                pixels = [transform.of_file(files.read(hit.row)) for hit in part]
            except SampleError as error:
                raise DataError(f"rerank: an image cannot be read: {error.reason}") from error
            images, grids = join_images(pixels, tower.budget)
            read = joint.read_image(images.to(device), None if grids is None else grids.to(device))
            pairs = torch.tensor([[row, 0] for row in range(len(part))])
            logits = pair_scores(joint, read.tokens, words.tokens, pairs)
            similarities = (read.embedding.float() @ words.embedding[0].float()).cpu()
            scores += reranking_scores(joint, similarities, logits).tolist()
    if not all(map(math.isfinite, scores)):
        raise NonFiniteError(
            "rerank: expected finite scores from the joint encoder, got NaN or infinity; its "
            "weights are damaged, or its training diverged: use another checkpoint"
        )
    order = sorted(range(len(best)), key=lambda place: -scores[place])
    return [*(best[place] for place in order), *hits[num_best:]]
