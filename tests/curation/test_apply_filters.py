"""Filters one after the other, their mask, and their names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.collection import Collection
from clipkit.curation.candidates import Candidates
from clipkit.curation.collection_index import collection_index
from clipkit.curation.filters import (
    CaptionWordsFilter,
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
from clipkit.curation.filters.named import FILTERS, make_filter, read_filters
from clipkit.curation.summary import mask_of, printable, summary_of
from clipkit.data import SampleMask, ShardIndex
from clipkit.errors import ConfigError, DataError
from tests.helpers.embedded_shards import embed_shards
from tests.helpers.factories import write_shards
from tests.helpers.given_collections import collection_of


@final
@dataclass(frozen=True)
class Without(Filter):
    """Removes some rows, and notes what it saw."""

    rows: tuple[int, ...]
    seen: list[list[int]]

    @property
    def description(self) -> str:
        return f"without {self.rows}"

    def decide(self, candidates: Candidates) -> Decision:
        self.seen.append(candidates.rows.tolist())
        return Decision(np.isin(candidates.rows, self.rows))


@given(st.lists(st.sets(st.integers(0, 9)), max_size=5))
def test_each_filter_sees_what_is_left(tmp_path_factory, parts):
    folder = tmp_path_factory.getbasetemp() / "ten"
    if not folder.exists():
        collection_of(folder, [4, 0, 6], error=["x", *[None] * 9])
    chain = [Without(tuple(part), []) for part in parts]
    left = [set(range(10)) - {0}]
    for part in parts:
        left.append(left[-1] - part)
    if not left[-1]:
        with pytest.raises(DataError, match="expected filters that keep some samples, got none"):
            apply_filters(Collection(folder), chain)
        return
    filtered = apply_filters(Collection(folder), chain)
    assert [each.seen for each in chain] == [[sorted(rows)] for rows in left[:-1]]
    assert set(np.flatnonzero(filtered.kept)) == left[-1]
    for number, part in enumerate(parts, start=2):
        removed = left[number - 2] & part
        assert set(np.flatnonzero(filtered.removed_by == number)) == removed
        outcome = filtered.outcomes[number - 1]
        assert (outcome.num_removed, outcome.num_kept) == (len(removed), len(left[number - 1]))
    assert filtered.removed_by[0] == 1


def test_an_empty_result_names_the_counts(tmp_path):
    collection = collection_of(tmp_path / "c", [3], error=["x", None, None])
    with pytest.raises(DataError, match=r"got none of 3 \(removed by 'readable': 1, 'without"):
        apply_filters(collection, [Without((1, 2), []), Without((1,), [])])


def test_there_are_at_most_254_filters(tmp_path):
    collection = collection_of(tmp_path / "c", [2])
    assert len(apply_filters(collection, [Without((), [])] * 254).outcomes) == 255
    with pytest.raises(ConfigError, match="expected at most 254, got 255"):
        apply_filters(collection, [Without((), [])] * 255)


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    write_shards(tmp_path / "shards", [3, 4])
    return tmp_path / "shards"


def test_the_mask_is_of_the_shards(tmp_path, shards):
    collection = Collection(embed_shards(shards, tmp_path / "c"))
    filtered = apply_filters(collection, [Without((2, 5), [])])
    index, is_checked = collection_index(collection)
    assert is_checked
    real = ShardIndex.from_urls(str(shards))
    mask = mask_of(index, filtered)
    assert (mask.index_fingerprint, mask.index_digest) == (real.fingerprint, real.digest)
    mask.save(tmp_path / "m.npz")
    loaded = SampleMask.load(tmp_path / "m.npz")
    loaded.check(real)
    assert loaded.filters == ("readable", "without (2, 5)")
    assert loaded.removed_by.tolist() == [0, 0, 2, 0, 0, 2, 0]
    summary = summary_of(collection, filtered, mask)
    assert summary["num_kept"] == 5
    assert [each["num_removed"] for each in summary["filters"]] == [0, 2]


def test_shards_that_have_moved(tmp_path, shards):
    """The recorded shards have the same fingerprint and digest; a new place can be named."""
    collection = Collection(embed_shards(shards, tmp_path / "c"))
    expected = ShardIndex.from_urls(str(shards))
    moved = tmp_path / "elsewhere"
    shards.rename(moved)
    index, is_checked = collection_index(collection)
    assert not is_checked
    assert (index.fingerprint, index.digest) == (expected.fingerprint, expected.digest)
    index, is_checked = collection_index(collection, [str(moved)])
    assert is_checked
    assert index.shards[0].address.path == moved / "00000.tar"


def test_other_shards_are_refused(tmp_path, shards):
    collection = Collection(embed_shards(shards, tmp_path / "c"))
    write_shards(shards, [3, 5])
    with pytest.raises(DataError, match=r"was made of other data than .*00001.tar: expected 4 sam"):
        collection_index(collection)


def test_descriptions_can_be_stored():
    assert printable("a\nb\x1b[31m\udc80") == "a\\nb\\x1b[31m\\udc80"
    assert len(printable("x" * 5000)) == 300


def test_every_filter_has_a_name():
    def leaves(kind):
        return {leaf for child in kind.__subclasses__() for leaf in leaves(child)} or {kind}

    own = {kind for kind in leaves(Filter) if kind.__module__.startswith("clipkit.")}
    assert {kind.__name__ for kind in own} - {"ReadableFilter"} == {
        kind.__name__ for kind in FILTERS.values()
    }


@pytest.mark.parametrize(("name", "given", "expected"), [
    ("min_score", 0.25, MinScoreFilter(0.25)),
    ("min_score", ["0.25"], MinScoreFilter(0.25)),
    ("min_score", {"min_score": 1}, MinScoreFilter(1.0)),
    ("caption_words", ["3", "9"], CaptionWordsFilter(3, 9)),
    ("caption_words", {"least": 3, "most": None}, CaptionWordsFilter(3)),
    ("scripts", "Latin", ScriptFilter(("Latin",))),
    ("scripts", ["Latin", "Han"], ScriptFilter(("Latin", "Han"))),
    ("scripts", {"scripts": ["Latin"]}, ScriptFilter(("Latin",))),
    ("file_duplicates", None, FileDuplicateFilter()),
    ("file_duplicates", [], FileDuplicateFilter()),
    ("image_duplicates", None, ImageDuplicateFilter(24)),
    ("image_duplicates", 8.0, ImageDuplicateFilter(8)),
    ("embedding_duplicates", "0.9", EmbeddingDuplicateFilter(0.9)),
    ("not_in", ["some/folder"], KnownImageFilter(Path("some/folder"))),
])  # fmt: skip
def test_filters_by_name(name, given, expected):
    assert make_filter(name, given) == expected


@pytest.mark.parametrize(("name", "given", "message"), [
    ("min_scores", 0.2, "filters: expected one of min_score, .*did you mean 'min_score'"),
    ("min_score", None, "min_score: expected a value for min_score, got none"),
    ("min_score", "high", "min_score: expected a number, got 'high'"),
    ("min_score", True, "expected a number, got True"),
    ("min_score", [[1]], r"expected a number, got \[1\]"),
    ("min_score", [0.1, 0.2], r"expected at most 1 values \(min_score\), got 2"),
    ("min_side", 1.5, "min_side: pixels: expected an integer, got 1.5"),
    ("min_side", float("inf"), "expected an integer, got inf"),
    ("min_side", float("nan"), "expected an integer, got nan"),
    ("min_side", {"pixel": 3}, "min_side: expected options of pixels, got 'pixel'"),
    ("languages", [False], "languages: expected a text, got False"),
    ("not_in", [""], "not_in: collection: expected a path, got ''"),
    ("file_duplicates", 3, r"expected at most 0 values \(no options\), got 1"),
    ("file_duplicates", {"a": 3}, "expected options of none, got 'a'"),
    ("balance_metadata", ["x.txt"], "balance_metadata: expected a value for limit, got none"),
])  # fmt: skip
def test_wrong_options_are_named(name, given, message):
    with pytest.raises(ConfigError, match=message):
        make_filter(name, given)


def test_filters_of_a_file(tmp_path):
    path = tmp_path / "filters.yaml"
    path.write_text(
        "- file_duplicates\n- min_score: 0.2\n- caption_words: {least: 2}\n- scripts: [Latin]\n"
    )
    assert read_filters(path) == [
        FileDuplicateFilter(), MinScoreFilter(0.2), CaptionWordsFilter(2), ScriptFilter(("Latin",)),
    ]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), [
    ("min_score: 0.2", "expected a list of filters, such as '- min_score: 0.25', got dict"),
    ("[]", "expected a list of filters"),
    ("- {min_score: 0.2, min_side: 3}", "filter 1: expected one name with its options"),
    ("- 3", "filter 1: expected one name with its options, got 3"),
    ("- min_score: 0.2\n- languages: [no]", "filter 2: languages: expected a text"),
    ("- !!python/object:os.system {}", "not YAML"),
])  # fmt: skip
def test_bad_files_of_filters(tmp_path, content, message):
    path = tmp_path / "filters.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_filters(path)
