from __future__ import annotations

import math

import numpy as np
import pytest

from clipkit.curation.clusters import WordCounts, log_odds


def loop_score(word, inside, outside, weight):
    """Monroe et al. 2008, word by word, from dictionaries of counts."""
    num_in, num_out = sum(inside.values()), sum(outside.values())
    prior = weight * (inside[word] + outside[word]) / (num_in + num_out)
    a, b = inside[word] + prior, outside[word] + prior
    first = math.log(a / (num_in + weight - a))
    second = math.log(b / (num_out + weight - b))
    return (first - second) / math.sqrt(1 / a + 1 / b)


def test_scores_are_those_of_a_loop():
    inside = {"a": 90, "dog": 40, "cat": 1, "the": 33}
    outside = {"a": 800, "dog": 5, "cat": 90, "the": 311}
    ours = log_odds(
        np.array(list(inside.values())),
        np.array(list(outside.values())),
        sum(inside.values()),
        sum(outside.values()),
        prior_words=100,
    )
    assert ours == pytest.approx([loop_score(word, inside, outside, 100) for word in inside])
    assert ours.argmax() == 1


def test_words_that_all_clusters_share_are_not_typical():
    counts = WordCounts(2)
    for _ in range(30):
        counts.add(0, {"a", "dog", "on", "the", "grass"})
        counts.add(1, {"a", "boat", "on", "the", "water"})
    first, second = counts.typical_words(8)
    assert first == [("dog", 30), ("grass", 30)]
    assert second == [("boat", 30), ("water", 30)]


def test_words_that_occurred_once_are_not_typical():
    counts = WordCounts(2)
    for number in range(50):
        counts.add(0, {"dogs" if number < 40 else "dog", f"odd{number}"})
        counts.add(1, {"dog" if number < 1 else "boat"})
    assert counts.typical_words(5) == [[("dogs", 40)], [("boat", 49)]]


def test_one_cluster_shows_its_most_frequent_words():
    counts = WordCounts(1)
    counts.add(0, {"red", "boat"})
    counts.add(0, {"red"})
    counts.add(0, set())
    assert counts.typical_words(5) == [[("red", 2), ("boat", 1)]]


def test_a_cluster_without_captions_has_no_words():
    assert WordCounts(2).typical_words(5) == [[], []]


def test_memory_is_bounded():
    counts = WordCounts(1, max_words=10)
    for number in range(1000):
        counts.add(0, {"common", f"w{number}"})
    (words,) = counts.typical_words(100)
    assert words[0] == ("common", 1000)
    assert len(words) <= 20
