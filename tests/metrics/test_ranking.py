"""Ranks of all correct pairs, and measures of queries, against loops and torchmetrics."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F
from torchmetrics.functional.retrieval import (
    retrieval_average_precision,
    retrieval_hit_rate,
    retrieval_normalized_dcg,
    retrieval_r_precision,
)

from clipkit.errors import MetricError
from clipkit.metrics.query_values import query_measures
from clipkit.metrics.ranking import pair_ranks


def unit_rows(size, width, seed):
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(size, width, generator=generator), dim=1)


def naive(scores, positives):
    """Places of the correct candidates of each query by a sort in which ties are never won."""
    places = {}
    for query, row in enumerate(scores):
        correct = {c for q, c in positives if q == query}
        order = sorted(range(len(row)), key=lambda c: (-round(row[c], 11), c in correct))
        ranked = [place for place, c in enumerate(order) if c in correct]
        if ranked:
            places[query] = [(place, place - ahead) for ahead, place in enumerate(ranked)]
    return places


def places_of(ranks):
    places = {}
    for query, incorrect, correct in zip(
        ranks.query.tolist(), ranks.incorrect.tolist(), ranks.correct.tolist(), strict=True
    ):
        places.setdefault(query, []).append((incorrect + correct, incorrect))
    return {query: sorted(values) for query, values in places.items()}


def naive_values(places, ks):
    """The definitions, query by query."""
    values = {}
    last = max(ks)
    for query, ranked in places.items():
        at = [place for place, _ in ranked]
        size = len(at)
        precision = [(n + 1) / (place + 1) for n, place in enumerate(at)]
        ideal = sum(1 / math.log2(n + 2) for n in range(min(size, last)))
        values[query] = {
            "rank": at[0],
            **{f"recall_at_{k}": float(at[0] < k) for k in ks},
            f"map_at_{last}": sum(p for p, n in zip(precision, at, strict=True) if n < last) / size,
            f"ndcg_at_{last}": sum(1 / math.log2(n + 2) for n in at if n < last) / ideal,
            "r_precision": sum(n < size for n in at) / size,
            "map_at_r": sum(p for p, n in zip(precision, at, strict=True) if n < size) / size,
        }
    return values


@given(
    num_images=st.integers(1, 9),
    num_texts=st.integers(1, 40),
    num_pairs=st.integers(0, 60),
    chunk=st.integers(1, 15),
    kind=st.sampled_from(["different", "copies", "collapsed"]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40, deadline=None)
def test_ranks_and_measures_equal_the_loop(num_images, num_texts, num_pairs, chunk, kind, seed):
    generator = torch.Generator().manual_seed(seed)

    def rows(below, number):
        return torch.randint(0, below, (number,), generator=generator)

    image, text = unit_rows(num_images, 5, seed), unit_rows(num_texts, 5, seed + 1)
    if kind == "copies":
        image = image[rows(num_images, num_images)]
        text = torch.cat([text, image])[rows(num_texts + num_images, num_texts)]
    elif kind == "collapsed":
        image, text = image[:1].expand(num_images, 5), image[:1].expand(num_texts, 5)
    # a quarter of the pairs belong to one image and one text: more than 16 pairs of a query
    few = rows(4, num_pairs) == 0
    pairs = torch.stack([rows(num_images, num_pairs), rows(num_texts, num_pairs)], 1)
    pairs[few, 0] = 0
    positives = set(map(tuple, pairs.tolist()))
    scores = image.double() @ text.double().T

    directions = pair_ranks(image, text, pairs, chunk)

    flipped = {(t, i) for i, t in positives}
    oracles = naive(scores.tolist(), positives), naive(scores.T.tolist(), flipped)
    for ranks, expected in zip(directions, oracles, strict=True):
        assert places_of(ranks) == expected
        queries, values = query_measures(ranks, ks=(1, 3))
        assert queries.tolist() == sorted(expected)
        by_hand = naive_values(expected, (1, 3))
        for name, column in values.items():
            wanted = [by_hand[query][name] for query in queries.tolist()]
            assert column.tolist() == pytest.approx(wanted)


def test_measures_equal_torchmetrics():
    image, text = unit_rows(30, 8, 0), unit_rows(70, 8, 1)
    generator = torch.Generator().manual_seed(2)
    relevant = torch.rand(30, 70, generator=generator) < 0.1
    relevant[:, 0] = True
    scores = image @ text.T + 2  # torchmetrics takes scores above 0 only
    queries, values = query_measures(pair_ranks(image, text, relevant.nonzero())[0], ks=(5, 70))
    assert queries.tolist() == list(range(30))
    for query in range(30):
        of_query = scores[query], relevant[query]
        expected = {
            "recall_at_5": retrieval_hit_rate(*of_query, top_k=5),
            "map_at_70": retrieval_average_precision(*of_query),
            "ndcg_at_70": retrieval_normalized_dcg(*of_query),
            "r_precision": retrieval_r_precision(*of_query),
        }
        measured = {name: values[name][query].item() for name in expected}
        assert measured == pytest.approx({k: v.item() for k, v in expected.items()}, abs=1e-6)
    _, at_5 = query_measures(pair_ranks(image, text, relevant.nonzero())[0], ks=(5,))
    cut = [retrieval_normalized_dcg(scores[q], relevant[q], top_k=5).item() for q in range(30)]
    assert at_5["ndcg_at_5"].tolist() == pytest.approx(cut, abs=1e-6)


def test_a_repeated_pair_counts_once():
    one = torch.eye(3)
    pairs = torch.tensor([[0, 0], [0, 0], [1, 1]])
    for ranks in pair_ranks(one, one, pairs):
        assert ranks.query.tolist() == [0, 1]
        assert ranks.correct.tolist() == [0, 0]


@pytest.mark.parametrize("pair", [[3, 0], [0, 4], [-1, 0]])
def test_a_pair_of_no_row_is_refused(pair):
    with pytest.raises(MetricError, match=r"rows of (images|texts): expected rows 0"):
        pair_ranks(torch.eye(4)[:3], torch.eye(4), torch.tensor([pair]))


def test_shapes_and_values_are_checked():
    one, pairs = torch.eye(3), torch.tensor([[0, 0]])
    with pytest.raises(MetricError, match=r"expected \[N D\], \[texts D\], \[pairs 2\]"):
        pair_ranks(one, one, pairs[0])
    with pytest.raises(MetricError, match="text: expected finite"):
        pair_ranks(one, one * math.nan, pairs)
