"""Order the best hits of a text by a joint encoder, which reads their image or sound files."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import torch

from clipkit.collection import Collection
from clipkit.collection.member_files import CollectionFiles
from clipkit.data.samples.content import sample_errors
from clipkit.errors import ConfigError, DataError, NonFiniteError, SampleError, check_at_least
from clipkit.models import JointEncoder, pair_scores, reranking_scores
from clipkit.models.evaluating import evaluating
from clipkit.models.inputs import sound_transform_of, tokenizer_of, transform_of
from clipkit.models.joint.joint_encoder import ReadTokens
from clipkit.models.towers.base import SignalTower
from clipkit.patches import join_images
from clipkit.search.searcher import Hit

_BATCH: Final = 64


def reranked_hits(
    joint: JointEncoder,
    collection: Collection,
    text: str,
    hits: Sequence[Hit],
    num_best: int,
    modality: str = "image",
) -> list[Hit]:
    """Return hits with the best in the order of a joint encoder; the others keep their places.

    It is that of ``clipkit.models.reranking_scores``, with similarities of the joint encoder's own
    towers.

    Args:
        joint: Encoder that fuses images and texts, or sounds and texts, in evaluation mode; it need
            not be the model that embedded the collection.
        collection: The collection, whose shards are where they were.
        text: The text that was searched for.
        hits: Hits, the most similar first.
        num_best: Number of hits that are scored again.
        modality: What was searched for: "image", or the name of a tower for sounds.

    Raises:
        ConfigError: If the encoder fuses other modalities, or ``num_best`` is less than 1.
        DataError: If a file cannot be read.
        NonFiniteError: If a score is NaN or infinite.
    """
    check_at_least("rerank", num_best, 1)
    if {*joint.fused_names} != {modality, "text"}:
        raise ConfigError(
            f"rerank: expected an encoder that fuses {modality}s and texts, got one that fuses "
            f"{', '.join(joint.fused_names)}"
        )
    best = list(hits[:num_best])
    scores: list[float] = []
    files, device = CollectionFiles(collection, modality), joint.log_logit_scale.device
    with evaluating(joint):
        words = joint.read_text(tokenizer_of(joint.text_tower)([text]).to(device))
        for start in range(0, len(best), _BATCH):
            part = best[start : start + _BATCH]
            read = _read(joint, modality, files, [hit.row for hit in part])
            pairs = torch.tensor([[row, 0] for row in range(len(part))])
            logits = pair_scores(joint, read.tokens, words.tokens, pairs, first=modality)
            similarities = (read.embedding.float() @ words.embedding[0].float()).cpu()
            scores += reranking_scores(joint, similarities, logits, first=modality).tolist()
    if not all(map(math.isfinite, scores)):
        raise NonFiniteError(
            "rerank: expected finite scores from the joint encoder, got NaN or infinity; its "
            "weights are damaged, or its training diverged: use another checkpoint"
        )
    order = sorted(range(len(best)), key=lambda place: -scores[place])
    return [*(best[place] for place in order), *hits[num_best:]]


def _read(
    joint: JointEncoder, modality: str, files: CollectionFiles, rows: Sequence[int]
) -> ReadTokens:
    """Embed image or sound files, and return their tokens."""
    device = joint.log_logit_scale.device
    try:
        contents = [files.read(row) for row in rows]
        if modality == "image":
            transform = transform_of(joint.image_tower)
            pixels, grids = join_images(
                [transform.of_file(content) for content in contents], joint.image_tower.budget
            )
            return joint.read_image(pixels.to(device), None if grids is None else grids.to(device))
        tower = joint.towers[modality]
        assert isinstance(tower, SignalTower), "neither image nor text"
        sounds = sound_transform_of(tower)
        with sample_errors():
            spectrograms = torch.stack([sounds.of_file(content) for content in contents])
        return joint.read_signal(modality, spectrograms.to(device))
    except SampleError as error:
        named = "an image" if modality == "image" else f"a {modality}"
        raise DataError(f"rerank: {named} cannot be read: {error.reason}") from error
