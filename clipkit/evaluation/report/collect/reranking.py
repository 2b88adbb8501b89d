"""Collect what re-ranking by a joint encoder changed."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from clipkit.evaluation.evaluators.reranked_retrieval import (
    PREFIX,
    RerankedDirection,
    RerankedEvaluation,
)
from clipkit.evaluation.report.collect.modalities import Compared, ShownInputs
from clipkit.evaluation.report.content import ChangedQuery, RerankedQueries, Reranking

_RECALL: Final = "recall_at_"


def reranking_of(
    measured: RerankedEvaluation,
    compared: Compared,
    num_queries: int = 12,
    thumbnail_pixels: int = 112,
    seed: int = 0,
) -> Reranking:
    """Return recall before and after re-ranking, and some of the queries that it changed.

    Args:
        measured: The retrieval before and after.
        compared: Its samples.
        num_queries: Number of queries of each direction, selected at random.
        thumbnail_pixels: Longest side of an image in the page, in pixels.
        seed: Seed of the selection.
    """
    shown = ShownInputs(compared, thumbnail_pixels)
    directions = [
        _queries(measured, one, shown, num_queries, seed) for one in reversed(measured.directions)
    ]
    note = f"Selected at random among the queries whose first candidate changed (seed {seed})."
    return Reranking(measured.num_best, directions, note)


def _queries(
    measured: RerankedEvaluation,
    direction: RerankedDirection,
    shown: ShownInputs,
    num_queries: int,
    seed: int,
) -> RerankedQueries:
    pair = measured.pair
    is_first = direction.prefix == pair.prefixes[0]
    pairs = pair.candidates.pairs if is_first else pair.candidates.pairs.flip(1)
    query, other = (pair.first, pair.second) if is_first else (pair.second, pair.first)
    before, after = direction.first_before.cpu(), direction.first_after.cpu()
    changed = (before != after).nonzero()[:, 0]
    order = torch.randperm(len(changed), generator=torch.Generator().manual_seed(seed))
    examples = [
        ChangedQuery(
            shown.input(pair, query, row),
            shown.input(pair, other, int(before[row])),
            shown.input(pair, other, int(after[row])),
            (_belongs(pairs, row, before[row]), _belongs(pairs, row, after[row])),
        )
        for row in changed[order[:num_queries]].tolist()
    ]
    metrics, name = measured.evaluation.metrics, f"{direction.prefix}{_RECALL}"
    ks = sorted(int(key.removeprefix(name)) for key in metrics if key.startswith(name))
    return RerankedQueries(
        direction=f"{query.capitalize()} to {other}",
        recalls=[(k, metrics[f"{name}{k}"], metrics[f"{PREFIX}{name}{k}"]) for k in ks],
        seconds_per_query=direction.seconds_per_query,
        num_queries=len(before),
        num_changed=len(changed),
        examples=sorted(examples, key=lambda one: one.effect),  # better, other, worse
    )


def _belongs(pairs: Tensor, query: int, candidate: Tensor) -> bool:
    return bool(((pairs[:, 0] == query) & (pairs[:, 1] == candidate)).any())
