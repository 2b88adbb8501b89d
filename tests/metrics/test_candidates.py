"""Measures of ranked candidates against loops, and what a tie is worth."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from clipkit.errors import MetricError
from clipkit.metrics import candidate_measures
from tests.helpers import turns


def test_measures_are_those_of_loops():
    generator = torch.Generator().manual_seed(0)
    sizes = [2, 100, 7, 3, 12, 1, 30]
    scores = [torch.randint(0, 9, (k,), generator=generator) / 4 for k in sizes]  # many ties
    correct = [int(torch.randint(k, (1,), generator=generator)) for k in sizes]
    relevance = [torch.randint(0, 4, (k,), generator=generator) / 3 for k in sizes]
    given = [None if k % 3 == 0 else good for k, good in zip(sizes, relevance, strict=True)]
    given[2] = torch.zeros(7)
    measures = candidate_measures(scores, correct, given)
    for at in range(len(sizes)):
        good = None if given[at] is None else given[at].tolist()
        expected = turns.naive_measures(scores[at].tolist(), correct[at], good)
        for name, column in measures.items():
            np.testing.assert_allclose(float(column[at]), expected.get(name, math.nan))


def test_equal_scores_are_never_a_win():
    measures = candidate_measures([torch.zeros(100)] * 3, [0, 50, 99], [torch.ones(100)] * 3)
    assert measures["rank"].tolist() == [100] * 3
    assert not measures["recall_at_10"].any()
    good = torch.tensor([1.0, 0.0, 0.0])
    assert candidate_measures([torch.zeros(3)], [0], [good])["ndcg"] == 0


def test_perfect_rankings():
    good = torch.tensor([0.0, 0.5, 1.0, 0.2])
    measures = candidate_measures([good, good], [2, 1], [good, None])
    assert measures["mrr"].tolist() == [1.0, 0.5]
    assert measures["ndcg"][0] == 1
    assert measures["ndcg"][1].isnan()
    assert "ndcg" not in candidate_measures([good], [2])
    assert {len(column) for column in candidate_measures([], []).values()} == {0}


@pytest.mark.parametrize(
    ("scores", "correct", "relevance", "reason"),
    [
        ([torch.zeros(2)], [2], None, "expected 0 to 1, got 2"),
        ([torch.zeros(2)], [-1], None, "expected 0 to 1, got -1"),
        ([torch.zeros(0)], [0], None, "got 0"),
        ([torch.tensor([0.0, math.nan])], [0], None, "NaN"),
        ([torch.zeros(2)], [0, 1], None, "expected 1 positions, got 2"),
        ([torch.zeros(2)], [0], [], "expected 1 queries, got 0"),
        ([torch.zeros(2)], [0], [torch.zeros(3)], "relevance: expected 2 numbers"),
        ([torch.zeros(2)], [0], [torch.tensor([1.0, -1.0])], "relevance"),
    ],
)
def test_refusals(scores, correct, relevance, reason):
    with pytest.raises(MetricError, match=reason):
        candidate_measures(scores, correct, relevance)
