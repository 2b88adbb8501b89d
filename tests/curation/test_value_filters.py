"""Filters by a measured value, against plain loops over the samples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clipkit.curation.candidates import Candidates
from clipkit.curation.filters import (
    BestScoresFilter,
    CaptionCharactersFilter,
    CaptionWordsFilter,
    Filter,
    MaxAspectFilter,
    MinPixelsFilter,
    MinScoreFilter,
    MinSideFilter,
    ReadableFilter,
)
from clipkit.curation.filters.score_filters import best
from clipkit.errors import ConfigError, DataError
from tests.helpers.given_collections import at_angles, collection_of


def removed(kind: Filter, candidates: Candidates) -> list[int]:
    return candidates.rows[kind.decide(candidates).removed].tolist()


@pytest.fixture
def scored(tmp_path: Path) -> Candidates:
    """Images on the first axis; captions at angles; one sample without captions."""
    angles = [[0], [60], [], [0, 90], [40], [120], [60]]
    return Candidates(
        collection_of(tmp_path / "c", [3, 0, 4], texts=[at_angles(each) for each in angles])
    )


def test_the_score_is_the_mean_of_the_captions(scored):
    expected = [1, 0.5, math.nan, 0.5, math.cos(math.radians(40)), -0.5, 0.5]
    np.testing.assert_allclose(scored.scores, expected, atol=1e-3)
    part = scored.some(np.array([1, 3, 4]))
    np.testing.assert_array_equal(part.scores, scored.scores[[1, 3, 4]])
    fresh = Candidates(scored.collection, np.array([1, 3, 4]))
    np.testing.assert_array_equal(fresh.scores, part.scores)


def test_a_threshold_keeps_equal_scores_and_no_sample_without_one(scored):
    exact = float(scored.scores[1])
    assert removed(MinScoreFilter(exact), scored) == [2, 5]
    assert removed(MinScoreFilter(-1), scored) == [2]
    decision = MinScoreFilter(0.7).decide(scored)
    assert decision.limits == (0.7,)
    np.testing.assert_array_equal(decision.values, scored.scores)


def test_the_best_share_counts_all_candidates_and_prefers_first_rows(scored):
    assert removed(BestScoresFilter(3 / 7), scored) == [2, 3, 5, 6]
    assert removed(BestScoresFilter(1.0), scored) == [2]
    assert BestScoresFilter(3 / 7).decide(scored).limits == (pytest.approx(0.5, abs=1e-3),)
    few = scored.some(np.array([2, 5]))
    assert removed(BestScoresFilter(0.5), few) == [2]


@given(
    arrays(np.float32, st.integers(0, 30), elements=st.sampled_from([0.0, 0.25, 0.5, np.nan])),
    st.integers(0, 31),
)
def test_best_agrees_with_a_sort(values, num_kept):
    known = [place for place in range(len(values)) if not math.isnan(values[place])]
    expected = sorted(known, key=lambda place: (-values[place], place))[:num_kept]
    assert np.flatnonzero(best(values, num_kept)).tolist() == sorted(expected)


def test_scores_need_texts(tmp_path):
    candidates = Candidates(collection_of(tmp_path / "c", [2]))
    for kind in (MinScoreFilter(0.1), BestScoresFilter(0.5)):
        with pytest.raises(ConfigError, match=r"no embeddings of captions.*--images-only"):
            kind.decide(candidates)


def test_a_wrong_number_of_texts_names_the_shard(tmp_path):
    collection = collection_of(
        tmp_path / "c", [2], texts=[at_angles([0])] * 2, captions=[["a"], ["b", "c"]]
    )
    with pytest.raises(DataError, match="00000: expected 3 embedded captions"):
        MinScoreFilter(0.1).decide(Candidates(collection))


def test_infinite_embeddings_have_no_score(tmp_path):
    images = at_angles([0, 0, 0])
    images[1], images[2] = np.nan, np.inf
    collection = collection_of(tmp_path / "c", [3], images=images, texts=[at_angles([0])] * 3)
    assert removed(MinScoreFilter(-1), Candidates(collection)) == [1, 2]


SIZES = [(300, 100), (100, 300), (301, 100), (99, 5000), (None, 10), (10, None), (64, 64)]


@pytest.fixture
def sized(tmp_path: Path) -> Candidates:
    widths, heights = zip(*SIZES, strict=True)
    collection = collection_of(tmp_path / "c", [4, 3], width_pixels=widths, height_pixels=heights)
    return Candidates(collection)


@pytest.mark.parametrize(("kind", "keeps"), [
    (MinSideFilter(100), lambda w, h: min(w, h) >= 100),
    (MinPixelsFilter(30_000), lambda w, h: w * h >= 30_000),
    (MaxAspectFilter(3.0), lambda w, h: max(w, h) <= 3 * min(w, h)),
])  # fmt: skip
def test_sizes(sized, kind, keeps):
    expected = [
        row
        for row, (width, height) in enumerate(SIZES)
        if width is None or height is None or not keeps(width, height)
    ]
    assert removed(kind, sized) == expected


def test_an_image_without_height_is_removed(tmp_path):
    collection = collection_of(tmp_path / "c", [1], width_pixels=[5], height_pixels=[0])
    assert removed(MinSideFilter(1), Candidates(collection)) == [0]
    assert removed(MaxAspectFilter(9), Candidates(collection)) == [0]


CAPTIONS = [
    ["a dog"],
    ["one two three four", "x"],
    [],
    ["  ab  "],
    ["二匹の犬"],
    None,
    [None, "a b c"],
]


@pytest.fixture
def captioned(tmp_path: Path) -> Candidates:
    return Candidates(collection_of(tmp_path / "c", [2, 5], captions=CAPTIONS))


def test_lengths_of_captions(captioned):
    words = [2, 2.5, math.nan, 1, 4, math.nan, 3]
    decision = CaptionWordsFilter(2, 3).decide(captioned)
    np.testing.assert_array_equal(decision.values, np.array(words, np.float32))
    assert np.flatnonzero(decision.removed).tolist() == [2, 3, 4, 5]
    assert removed(CaptionWordsFilter(0), captioned) == [2, 5]
    characters = [5, 9.5, math.nan, 2, 4, math.nan, 5]
    decision = CaptionCharactersFilter(4, 5).decide(captioned)
    np.testing.assert_array_equal(decision.values, np.array(characters, np.float32))
    assert np.flatnonzero(decision.removed).tolist() == [1, 2, 3, 5]


def test_unreadable_samples(tmp_path):
    collection = collection_of(tmp_path / "c", [2, 2], error=[None, "damaged", None, ""])
    assert removed(ReadableFilter(), Candidates(collection)) == [1, 3]


@pytest.mark.parametrize(("make", "message"), [
    (lambda: MinScoreFilter(1.5), "min_score: expected -1 to 1, got 1.5"),
    (lambda: MinScoreFilter(math.nan), "min_score: expected -1 to 1, got nan"),
    (lambda: BestScoresFilter(0.0), "best_scores: expected above 0 and at most 1, got 0"),
    (lambda: BestScoresFilter(math.nan), "best_scores: expected above 0 and at most 1"),
    (lambda: MinSideFilter(0), "min_side: expected at least 1, got 0"),
    (lambda: MinPixelsFilter(-1), "min_pixels: expected at least 1, got -1"),
    (lambda: MaxAspectFilter(0.5), "max_aspect: expected at least 1.0, got 0.5"),
    (lambda: CaptionWordsFilter(-1), "caption_words: expected at least 0, got -1"),
    (lambda: CaptionCharactersFilter(5, 4), "caption_characters: expected a largest number of at"),
])  # fmt: skip
def test_options_are_checked(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
