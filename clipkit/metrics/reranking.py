"""Ranks of correct pairs after the best candidates of each query were scored again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from clipkit.errors import MetricError
from clipkit.metrics.ranking import PairRanks, full_float32_products

_CHUNK = 256


def reranked(
    similarities: Float[Tensor, "queries N"],
    best: Int64[Tensor, "queries best"],
    scores: Float[Tensor, "queries best"],
) -> Float[Tensor, "queries N"]:
    """Return scores that put the best candidates in the order of their new scores.

    The others follow in the order of their similarities.

    Args:
        similarities: Similarity of each query with each candidate.
        best: The best candidates of each query.
        scores: Their new scores, of any range.

    Examples:
        >>> similarities = torch.tensor([[0.9, 0.8, 0.1]])
        >>> new = reranked(similarities, torch.tensor([[0, 1]]), torch.tensor([[-3.0, 5.0]]))
        >>> new.argsort(descending=True).tolist()
        [[1, 0, 2]]
    """
    above = similarities.double().amax(1, keepdim=True) + 1
    raised = scores.double() - scores.double().amin(1, keepdim=True) + above
    return similarities.double().scatter(1, best, raised)


@torch.no_grad()
def reranked_pair_ranks(
    queries: Float[Tensor, "queries D"],
    candidates: Float[Tensor, "N D"],
    pairs: Int64[Tensor, "pairs 2"],
    num_best: int,
    score: Callable[[Int64[Tensor, "pairs 2"]], Float[Tensor, " pairs"]],
) -> PairRanks:
    """Compute the ranks of all correct pairs after the best candidates were scored again.

    A tie between a correct and an incorrect candidate is never won by the correct one, as in
    ``pair_ranks``, nor does it bring the correct one among the best; similarities are compared in
    float32.

    Args:
        queries: Unit-norm embeddings of the queries.
        candidates: Unit-norm embeddings of the candidates.
        pairs: Row of the query and row of the candidate of each correct pair.
        num_best: Number of candidates of each query that are scored again.
        score: Function that returns the new score of pairs of query and candidate.

    Raises:
        MetricError: If ``num_best`` is less than 1, or a new score is not finite.
    """
    if num_best < 1:
        raise MetricError(f"num_best: expected at least 1, got {num_best}")
    pairs = torch.unique(pairs, dim=0)  # by ascending query
    found = [PairRanks(pairs[:0, 0], pairs[:0, 0], pairs[:0, 0])]
    for start in range(0, len(queries), _CHUNK):
        similarities = _similarities(queries[start : start + _CHUNK], candidates)
        own = pairs[(pairs[:, 0] >= start) & (pairs[:, 0] < start + len(similarities))]
        is_correct = torch.zeros_like(similarities, dtype=torch.bool)
        is_correct[own[:, 0] - start, own[:, 1]] = True
        best = _best(similarities, is_correct, num_best)
        rows = torch.arange(start, start + len(best), device=best.device)
        asked = torch.stack([rows[:, None].expand_as(best), best], dim=2).flatten(0, 1)
        scores = score(asked).to(similarities).view_as(best)
        if not scores.isfinite().all():
            raise MetricError("reranking: expected finite scores of pairs, got NaN or infinity")
        found.append(_ranks(reranked(similarities, best, scores), own, is_correct, start))
    return PairRanks(*(torch.cat(parts) for parts in zip(*map(_columns, found), strict=True)))


def _columns(ranks: PairRanks) -> tuple[Tensor, Tensor, Tensor]:
    return ranks.query, ranks.incorrect, ranks.correct


def _similarities(
    queries: Float[Tensor, "queries D"], candidates: Float[Tensor, "N D"]
) -> Float[Tensor, "queries N"]:
    """Multiply in full float32, also where the caller computes in less."""
    with torch.autocast(queries.device.type, enabled=False), full_float32_products():
        return queries.float() @ candidates.float().T


def _best(
    similarities: Float[Tensor, "queries N"], is_correct: Bool[Tensor, "queries N"], num_best: int
) -> Int64[Tensor, "queries best"]:
    """Return the most similar candidates; of equal ones the incorrect, then the first."""
    keys = similarities.double()
    # less than an equal float32, and more than any smaller one
    below = torch.nextafter(keys, torch.full_like(keys, -torch.inf))
    keys = torch.where(is_correct, below, keys)
    return keys.argsort(dim=1, descending=True, stable=True)[:, :num_best]


def _ranks(
    scores: Float[Tensor, "queries N"],
    pairs: Int64[Tensor, "pairs 2"],
    is_correct: Bool[Tensor, "queries N"],
    start: int,
) -> PairRanks:
    """Return the ranks of correct pairs by dense scores."""
    places = scores.argsort(dim=1, descending=True).argsort(dim=1)  # no two corrects share one
    incorrect, correct = [pairs[:0, 0]], [pairs[:0, 0]]
    for part in torch.split(pairs, _CHUNK):
        rows = part[:, 0] - start
        own = scores[rows, part[:, 1]][:, None]
        place = places[rows, part[:, 1]][:, None]
        incorrect.append(((scores[rows] >= own) & ~is_correct[rows]).sum(1))
        correct.append(((places[rows] < place) & is_correct[rows]).sum(1))
    return PairRanks(pairs[:, 0], torch.cat(incorrect), torch.cat(correct))
