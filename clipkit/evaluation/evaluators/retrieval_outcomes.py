"""Outcomes of retrieval between two modalities: both directions, groups, widths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F

from clipkit.evaluation.correct_pairs import Candidates
from clipkit.evaluation.modality_pairs import ModalityPair
from clipkit.evaluation.outcomes.outcomes import Outcomes
from clipkit.evaluation.outcomes.retrieval import (
    recalls_of,
    recalls_only,
    retrieval_outcomes,
    rsum_outcomes,
)
from clipkit.evaluation.outcomes.worst_group import worst_group_outcomes
from clipkit.metrics.ranking import PairRanks, pair_ranks

Ranker = Callable[[Candidates], tuple[PairRanks, PairRanks]]
"""Function that returns the ranks of correct pairs, with the first and the second as queries."""


def pair_outcomes(
    pair: ModalityPair,
    ks: Sequence[int],
    widths: Sequence[int],
    device: torch.device,
    ranker: Ranker | None = None,
) -> list[Outcomes]:
    """Return the outcomes of retrieval in both directions; the ranks divide the work.

    Args:
        pair: Two modalities.
        ks: Numbers of best candidates that are considered.
        widths: Numbers of first components at which recall at the first k is measured too.
        device: Device on which candidates are compared.
        ranker: What ranks candidates; None for the similarity of embeddings.

    Returns:
        Outcomes of each direction, of truncated embeddings, and of each group of queries; for
        images and texts also those of the sum of recalls.
    """
    ranker = ranker or partial(_ranks, device=device)
    parts = list(_directions(pair, pair.candidates, ks, ranker))
    grouped = [] if pair.groups is None else _by_group(pair, parts, ks, ranker)
    rsum = rsum_outcomes(*parts) if (pair.first, pair.second) == ("image", "text") else None
    for width in widths:
        firsts, seconds = (
            F.normalize(rows[:, :width].float(), dim=1)
            for rows in (pair.candidates.images, pair.candidates.texts)
        )
        truncated = replace(pair.candidates, images=firsts, texts=seconds)
        parts += [
            recalls_only(part, f"width_{width}/{part.prefix}")
            for part in _directions(pair, truncated, ks[:1], ranker)
        ]
    return [*parts, *grouped, *([rsum] if rsum is not None else [])]


def _directions(
    pair: ModalityPair, candidates: Candidates, ks: Sequence[int], ranker: Ranker
) -> tuple[Outcomes, Outcomes]:
    """Return the outcomes with the first as queries, and those with the second as queries."""
    of_images, of_texts = ranker(candidates)
    images, texts = candidates.image_keys, candidates.text_keys
    there, back = pair.prefixes
    return (
        retrieval_outcomes(of_images, images, images, there, ks),
        retrieval_outcomes(of_texts, texts, candidates.text_groups, back, ks),
    )


def _ranks(candidates: Candidates, device: torch.device) -> tuple[PairRanks, PairRanks]:
    """Return the ranks of all correct pairs; the ranks of the process group divide the work."""
    if device.type != "cuda":
        device = torch.device("cpu")  # other devices lack fp64
    tensors = (candidates.images, candidates.texts, candidates.pairs)
    images, texts, pairs = (tensor.to(device) for tensor in tensors)
    return pair_ranks(images, texts, pairs, over_ranks=True)


def _by_group(
    pair: ModalityPair, parts: Sequence[Outcomes], ks: Sequence[int], ranker: Ranker
) -> list[Outcomes]:
    """Return the recall of each group of queries in both directions.

    If captions have groups, the candidates of an image are the captions of one group, such as those
    in one language.
    """
    candidates, groups = pair.candidates, pair.groups
    assert groups is not None, "pair_outcomes calls this with groups only"
    of_texts = [groups.captions[row] for row in candidates.caption_rows.tolist()]
    text_part = worst_group_outcomes(recalls_of(parts[1]), of_texts, parts[1])
    if groups.images is not None:
        return [worst_group_outcomes(recalls_of(parts[0]), groups.images, parts[0]), text_part]
    prefix, images = parts[0].prefix, candidates.image_keys
    of_names: dict[str, Outcomes] = {}
    for name in sorted(set(of_texts)):
        inside = torch.tensor([group == name for group in of_texts])
        pairs = candidates.pairs[inside[candidates.pairs[:, 1]]]
        rows = torch.stack([pairs[:, 0], (inside.cumsum(0) - 1)[pairs[:, 1]]], 1)
        texts, of_captions = candidates.texts[inside], candidates.caption_rows[inside]
        ranks, _ = ranker(replace(candidates, texts=texts, pairs=rows, caption_rows=of_captions))
        of_names[name] = retrieval_outcomes(ranks, images, images, prefix, ks)
    units = Outcomes(
        "means",
        tuple(f"{key}@{name}" for name, part in of_names.items() for key in part.keys),
        tuple(group for part in of_names.values() for group in part.groups),
        {},
        prefix,
    )
    recalls = {
        column: torch.cat([part.columns[column] for part in of_names.values()])
        for column in recalls_of(parts[0])
    }
    attributes = [name for name, part in of_names.items() for _ in part.keys]
    return [worst_group_outcomes(recalls, attributes, units), text_part]
