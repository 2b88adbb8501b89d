"""Ranks after re-ranking, against sorted lists."""

from __future__ import annotations

import pytest
import torch

from clipkit.errors import MetricError
from clipkit.metrics.ranking import pair_ranks
from clipkit.metrics.reranking import reranked_pair_ranks


def naive_ranks(similarities, pairs, num_best, scores):
    """Incorrect and correct candidates before each correct pair, from a sorted list per query."""
    found = {}
    for query in range(len(similarities)):
        correct = {c for q, c in pairs if q == query}
        order = similarities[query].argsort(descending=True).tolist()
        again = [(-float(scores[query, j]), j in correct, j) for j in order[:num_best]]
        head = [j for _, _, j in sorted(again)]
        order = head + order[num_best:]
        for candidate in correct:
            before = order[: order.index(candidate)]
            right = sum(j in correct for j in before)
            found[query, candidate] = (len(before) - right, right)
    return found


@pytest.mark.parametrize("num_best", [1, 3, 50])
def test_ranks_are_those_of_sorted_lists(num_best):
    generator = torch.Generator().manual_seed(num_best)
    queries, candidates = (
        torch.nn.functional.normalize(torch.randn(n, 6, generator=generator), dim=1)
        for n in (300, 12)
    )
    scores = torch.randint(-3, 4, (300, 12), generator=generator).float()  # with ties
    pairs = torch.randint(0, 12, (700, 2), generator=generator)
    pairs[:, 0] = torch.randint(0, 300, (700,), generator=generator)
    got = reranked_pair_ranks(
        queries, candidates, pairs, num_best, lambda asked: scores[asked[:, 0], asked[:, 1]]
    )
    expected = naive_ranks(
        queries @ candidates.T, set(map(tuple, pairs.tolist())), num_best, scores
    )
    rows = torch.unique(pairs, dim=0).tolist()
    assert got.query.tolist() == [query for query, _ in rows]
    by_query = {}
    for query, incorrect, correct in zip(got.query, got.incorrect, got.correct, strict=True):
        by_query.setdefault(int(query), []).append((int(incorrect), int(correct)))
    for query, ranks in by_query.items():
        wanted = [rank for (q, _), rank in expected.items() if q == query]
        assert sorted(ranks) == sorted(wanted)


def test_a_tie_brings_no_correct_candidate_among_the_best():
    same = torch.ones(5, 2)
    for correct in range(5):
        pairs = torch.tensor([[0, correct]])
        for num_best, wanted in ((1, 4), (4, 4), (5, 0)):

            def score(rows, of=correct):
                return (rows[:, 1] == of).float()

            ranks = reranked_pair_ranks(same[:1], same, pairs, num_best, score)
            assert ranks.incorrect.tolist() == [wanted], (correct, num_best)


def test_autocast_does_not_make_ties():
    queries = torch.tensor([[1.0, 0.0]])
    candidates = torch.tensor([[0.9999, 0.0141], [1.0, 0.0]])
    with torch.autocast("cpu", torch.bfloat16):
        ranks = reranked_pair_ranks(
            queries, candidates, torch.tensor([[0, 1]]), 1, lambda a: torch.zeros(len(a))
        )
    assert ranks.incorrect.tolist() == [0]


def test_the_same_scores_give_the_ranks_of_before():
    torch.manual_seed(0)
    queries, candidates = (torch.nn.functional.normalize(torch.randn(9, 4), dim=1) for _ in "ab")
    pairs = torch.arange(9)[:, None].expand(-1, 2)
    before, _ = pair_ranks(queries, candidates, pairs)
    after = reranked_pair_ranks(
        queries, candidates, pairs, 4, lambda a: (queries[a[:, 0]] * candidates[a[:, 1]]).sum(1)
    )
    assert torch.equal(before.incorrect, after.incorrect)


@pytest.mark.parametrize(
    ("num_best", "score", "message"), [(0, 1.0, "expected at least 1"), (2, torch.nan, "finite")]
)
def test_what_cannot_be_ranked_is_refused(num_best, score, message):
    one = torch.eye(3)
    pairs = torch.arange(3)[:, None].expand(-1, 2)
    with pytest.raises(MetricError, match=message):
        reranked_pair_ranks(
            one, one, pairs, num_best, lambda asked: torch.full((len(asked),), score)
        )
