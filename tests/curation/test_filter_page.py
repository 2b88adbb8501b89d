"""The page of filters: what it shows, and that nothing on it is markup of the data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from clipkit.collection import Collection, CollectionImages
from clipkit.curation.candidates import Candidates
from clipkit.curation.collection_index import collection_index
from clipkit.curation.filter_page import Evidence, write_filter_page
from clipkit.curation.filter_page.evidence import SHOWN_ROWS, filter_evidence
from clipkit.curation.filter_page.histogram import histogram_plot, value_histogram
from clipkit.curation.filters import (
    BestScoresFilter,
    ClassBalanceFilter,
    Decision,
    EmbeddingDuplicateFilter,
    FileDuplicateFilter,
    Filter,
    ImageDuplicateFilter,
    KnownImageFilter,
    MinScoreFilter,
    ScriptFilter,
    apply_filters,
)
from clipkit.curation.summary import mask_of, summary_of
from tests.helpers.embedded_shards import embed_shards
from tests.helpers.factories import pair, write_shard
from tests.helpers.given_collections import collection_of
from tests.helpers.html import parse

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7*7 }}"


@pytest.fixture
def collection(tmp_path: Path) -> Collection:
    """Two shards with copies, hostile captions and a sample that cannot be read."""
    (tmp_path / "shards").mkdir()
    first = [(str(n), {**pair(n), "cls": b"1"}) for n in range(12)]
    first.append(("hostile", {**pair(3), "txt": HOSTILE.encode()}))
    second = [(f"copy{n}", pair(n)) for n in range(4)] + [("bad", {"jpg": b"no", "txt": b"x"})]
    write_shard(tmp_path / "shards" / "00000.tar", first)
    write_shard(tmp_path / "shards" / "00001.tar", second)
    return Collection(embed_shards(tmp_path / "shards", tmp_path / "c"))


def write(collection: Collection, filters: list[Filter], path: Path) -> str:
    evidence = Evidence()
    filtered = apply_filters(collection, filters, on_decision=evidence.collect)
    index, _ = collection_index(collection)
    summary = summary_of(collection, filtered, mask_of(index, filtered))
    calls: list[tuple[int, int]] = []
    write_filter_page(
        path, collection, CollectionImages(collection), evidence, summary,
        lambda done, total: calls.append((done, total)),
    )  # fmt: skip
    assert [done for done, _ in calls] == list(range(1, len(calls) + 1))
    assert {total for _, total in calls} <= {len(calls)}
    return path.read_text(encoding="utf-8")


def test_the_page_shows_each_filter(collection, tmp_path):
    filters = [
        FileDuplicateFilter(), MinScoreFilter(0.98), ScriptFilter(("Latin",)),
        ImageDuplicateFilter(), ClassBalanceFilter(5),
    ]  # fmt: skip
    page = write(collection, filters, tmp_path / "out" / "p.html")
    parsed = parse(page)
    text = " ".join(" ".join(parsed.text).split())
    for title in ("Readable", "One of equal image files", "Image-text score of at least 0.98"):
        assert title in text
    assert "alert(1)</script>" not in page.replace("&lt;/script&gt;", "")
    assert {f"filter-{n}" for n in range(1, 7)} <= set(parsed.ids)
    assert len(parsed.ids) == len(set(parsed.ids))
    assert "onerror" not in parsed.names
    assert "Removed, just below 0.98" in text
    assert "kept: the image with the most pixels" in text
    assert parsed.tags.count("img") >= 10


def test_captions_are_text(collection, tmp_path):
    page = write(collection, [BestScoresFilter(0.5)], tmp_path / "p.html")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page
    assert "{{ 7*7 }}" in page
    parse(page)


def test_missing_shards_leave_crosses(collection, tmp_path):
    (tmp_path / "shards" / "00000.tar").unlink()
    page = write(collection, [FileDuplicateFilter()], tmp_path / "p.html")
    assert "Images that could not be read from the shards:" in page
    assert "image cannot be read" in page
    parse(page)


def test_copies_of_other_data_are_shown_with_them(collection, tmp_path):
    (tmp_path / "more").mkdir()
    write_shard(tmp_path / "more" / "0.tar", [("evaluation-key", pair(5))])
    other = embed_shards(tmp_path / "more", tmp_path / "other")
    page = write(collection, [KnownImageFilter(other)], tmp_path / "p.html")
    assert "evaluation-key" in page
    assert f"Copies of images of {other}" in page


def test_a_page_has_a_largest_number_of_images(collection, tmp_path, monkeypatch):
    monkeypatch.setattr("clipkit.curation.filter_page.page._MAX_IMAGES", 0)
    page = write(collection, [FileDuplicateFilter(), MinScoreFilter(0.98)], tmp_path / "p.html")
    assert "data:image/webp" not in page
    assert "Cosine similarity of image and caption" in page


def test_without_sizes_and_captions(tmp_path):
    collection = collection_of(tmp_path / "c", [4], label=[0, 0, 0, None])
    page = write(collection, [ClassBalanceFilter(1)], tmp_path / "p.html")
    assert "no caption" in page
    parse(page)


def test_samples_on_both_sides_of_a_limit():
    rows = np.arange(1000) * 2
    values = np.linspace(0, 1, 1000, dtype=np.float32)
    values[7] = np.nan
    removed = ~(values >= 0.5)
    decision = Decision(removed, values, "score", (0.5,))
    evidence = filter_evidence(rows, decision, np.random.default_rng(0))
    below, near, unknown = evidence.strips
    assert (below.title, near.title) == ("Removed, just below 0.5", "Kept, near 0.5")
    assert len(below.rows) == len(near.rows) == SHOWN_ROWS
    assert all(0.47 < each.value < 0.5 for each in below.rows)
    assert all(0.5 <= each.value < 0.53 for each in near.rows)
    assert [each.row for each in unknown.rows] == [14]
    assert all(values[each.row // 2] == each.value for each in (*below.rows, *near.rows))
    again = filter_evidence(rows, decision, np.random.default_rng(0))
    assert again.strips[:2] == evidence.strips[:2]


def test_the_largest_clusters_come_first():
    copy_of = np.full(60, -1)
    copy_of[1:20], copy_of[31:35] = 0, 30
    copy_of[40:54:2] = np.arange(41, 55, 2)
    decision = Decision(copy_of >= 0, copy_of=copy_of)
    evidence = filter_evidence(np.arange(60), decision, np.random.default_rng(0))
    clusters = [(each.kept, each.num_copies) for each in evidence.clusters]
    assert clusters[:2] == [(0, 19), (30, 4)]
    assert len(clusters) == len(set(clusters)) == 9
    assert [each.row for each in evidence.clusters[0].copies] == [1, 2, 3, 4]


@given(
    arrays(np.float32, st.integers(0, 40), elements=st.floats(-1e6, 1e6, width=32)
           | st.sampled_from([np.nan, np.inf])),
    st.lists(st.floats(-1e6, 1e6), max_size=2).map(sorted).map(tuple),
)  # fmt: skip
def test_histograms_count_every_known_value(values, limits):
    removed = values > 0
    histogram = value_histogram(values, removed, limits)
    is_known = np.isfinite(values)
    if histogram is None:
        assert not is_known.any()
        return
    assert sum(histogram.kept) == int((is_known & ~removed).sum())
    assert sum(histogram.removed) == int((is_known & removed).sum())
    assert histogram.num_unknown == int((~is_known).sum())
    assert all(histogram.edges[0] <= limit <= histogram.edges[-1] for limit in limits)
    plot = histogram_plot(histogram, "value")
    places = [place for shape in plot.shapes for point in shape.points for place in point]
    assert all(-1 <= place <= 1001 for place in places)


def test_near_pairs_are_kept_samples_just_beyond_the_limit(collection):
    decision = EmbeddingDuplicateFilter(0.999).decide(Candidates(collection, np.arange(12)))
    evidence = filter_evidence(np.arange(12), decision, np.random.default_rng(0))
    values = [pair.copies[0].value for pair in evidence.near_pairs]
    assert values == sorted(values, reverse=True)
    assert all(value < 0.999 for value in values)


def test_nothing_removed_needs_no_samples():
    nothing = Decision(np.zeros(5, np.bool_), np.ones(5, np.float32), "side", (0.5,))
    evidence = filter_evidence(np.arange(5), nothing, np.random.default_rng(0))
    assert evidence.strips == ()
    assert evidence.histogram is not None
