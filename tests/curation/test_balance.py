"""Balance over classes and metadata entries."""

from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.curation.candidates import Candidates
from clipkit.curation.draws import draws, uniform
from clipkit.curation.filters import ClassBalanceFilter, GroupCount, MetadataBalanceFilter
from clipkit.curation.filters.class_balance import beyond
from clipkit.curation.filters.metadata_balance import keeping_chances
from clipkit.curation.filters.metadata_entries import MetadataEntries, read_entries
from clipkit.data.text.word_sets import words_of
from clipkit.errors import ConfigError, DataError
from tests.helpers.given_collections import collection_of


def test_draws_are_those_of_the_hash():
    expected = int.from_bytes(hashlib.blake2b(b"a", digest_size=8, key=b"7").digest(), "little")
    assert draws(["a", "\ud800"], 7)[0] == expected
    numbers = uniform(draws(map(str, range(4000)), 0))
    assert numbers.min() >= 0
    assert numbers.max() < 1
    counts = np.histogram(numbers, 10, (0, 1))[0]
    assert ((counts - 400) ** 2 / 400).sum() < 30  # chi-squared with 9 degrees, p = 0.0004
    assert uniform(np.array([2**64 - 1], np.uint64))[0] < 1


@given(st.lists(st.tuples(st.integers(-1, 3), st.integers(0, 5))), st.integers(1, 3))
def test_the_smallest_numbers_of_a_class_are_kept(samples, most):
    labels = np.array([label for label, _ in samples], np.int64)
    numbers = np.array([number for _, number in samples], np.uint64)
    removed = beyond(labels, numbers, most)
    for label in set(labels.tolist()):
        rows = [row for row in range(len(labels)) if labels[row] == label]
        kept = sorted(rows, key=lambda row: (numbers[row], row))[:most] if label >= 0 else rows
        assert [row for row in rows if not removed[row]] == sorted(kept)


def test_classes_are_balanced_by_keys(tmp_path):
    labels = [0, 0, 1, 0, None, 2, 0, 0]
    keys = [f"k{row}" for row in range(8)]
    first = collection_of(tmp_path / "a", [3, 5], label=labels, key=keys, class_names=["x", "y"])
    decision = ClassBalanceFilter(2, seed=3).decide(Candidates(first))
    kept = {keys[row] for row in np.flatnonzero(~decision.removed)}
    assert decision.groups == (GroupCount("x", 5, 2), GroupCount("y", 1, 1), GroupCount("2", 1, 1))
    assert {"k2", "k4", "k5"} <= kept
    assert len(kept) == 5
    order = [7, 3, 1, 0, 2, 6, 5, 4]
    second = collection_of(
        tmp_path / "b", [8], label=[labels[n] for n in order], key=[keys[n] for n in order]
    )
    again = ClassBalanceFilter(2, seed=3).decide(Candidates(second))
    assert {keys[order[row]] for row in np.flatnonzero(~again.removed)} == kept
    others = [ClassBalanceFilter(2, seed).decide(Candidates(first)).removed for seed in range(9)]
    assert len({tuple(each.tolist()) for each in others}) > 1


WORDS = ("a", "b", "c", "ab", "Ab!", "犬", "二匹")


@given(
    st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join)),
    st.lists(st.sampled_from(WORDS), max_size=8).map(" ".join),
)
def test_entries_are_substrings_of_the_words(texts, caption):
    """The oracle: spaces around words, and a substring search for every entry."""
    entries = MetadataEntries(texts)
    spaced = f" {' '.join(words_of(caption))} "
    names = [" ".join(words_of(each)) for each in entries.names]
    assert len(set(names)) == len(names)
    assert set(names) == {" ".join(words_of(text)) for text in texts} - {""}
    expected = {number for number, name in enumerate(names) if f" {name} " in spaced}
    assert entries.occurring(caption) == expected


def test_no_part_of_a_word_is_an_entry():
    entries = MetadataEntries(["cat", "new york", "!?", "NEW YORK"])
    assert entries.names == ["cat", "new york"]
    assert entries.occurring("the category of New York") == {1}
    assert entries.occurring("new. york") == {1}
    assert entries.occurring("") == set()


@given(
    st.lists(st.sets(st.integers(0, 4))), st.lists(st.integers(1, 50), min_size=5, max_size=5),
    st.integers(1, 20),
)  # fmt: skip
def test_chances_are_those_of_independent_draws(samples, counts, limit):
    numbers = np.array([n for each in samples for n in sorted(each)], np.int64)
    starts = np.cumsum([0, *map(len, samples)])
    chances = keeping_chances(numbers, starts, np.array(counts), limit)
    expected = [
        1 - np.prod([1 - min(1, limit / counts[n]) for n in each]) if each else 0
        for each in samples
    ]
    np.testing.assert_allclose(chances, expected, rtol=1e-9, atol=1e-12)


def test_frequent_entries_are_thinned_and_rare_ones_kept(tmp_path):
    rng = np.random.default_rng(0)
    captions = []
    for row in range(3000):
        own = ["a dog runs"] if rng.random() < 0.8 else ["nothing to see"]
        own += ["a red panda"] if row % 300 == 0 else []
        own += ["one cat"] if row % 10 == 0 else []
        captions.append(own)
    entries = tmp_path / "entries.txt"
    entries.write_text("dog\n\nRed Panda\ncat\nunicorn\n", encoding="utf-8")
    candidates = Candidates(collection_of(tmp_path / "c", [1000, 2000], captions=captions))
    decision = MetadataBalanceFilter(entries, 100).decide(candidates)
    texts = [" ".join(own) for own in captions]
    counts = Counter(word for text in texts for word in ("dog", "panda", "cat") if word in text)
    groups = {group.name: group for group in decision.groups}
    assert groups["dog"].before == counts["dog"] > 2000
    assert groups["Red Panda"] == GroupCount("Red Panda", 10, 10)
    assert groups["unicorn"].before == 0
    kept_dogs = [row for row, text in enumerate(texts) if text == "a dog runs"]
    expected = len(kept_dogs) * 100 / counts["dog"]
    kept = int((~decision.removed[kept_dogs]).sum())
    assert abs(kept - expected) < 4 * expected**0.5  # binomial
    without = [row for row, text in enumerate(texts) if text == "nothing to see"]
    assert decision.removed[without].all()
    assert f"{len(without)} samples without an entry, 2 of 4" in decision.notes[0]
    again = MetadataBalanceFilter(entries, 100).decide(candidates)
    np.testing.assert_array_equal(again.removed, decision.removed)


def test_entries_are_read_from_text_and_json(tmp_path):
    (tmp_path / "a.json").write_text('["dog", "red panda"]')
    assert read_entries(tmp_path / "a.json").names == ["dog", "red panda"]
    (tmp_path / "b.txt").write_bytes(b"\xef\xbb\xbfdog\r\nred panda\r\n")
    assert read_entries(tmp_path / "b.txt").names == ["dog", "red panda"]


@pytest.mark.parametrize(("name", "content", "message"), [
    ("a.json", b"{}", "expected a list of texts, got dict"),
    ("a.json", b'["a", 3]', "entry 1: expected a text, got 3"),
    ("a.json", b"[" * 100_000, "expected metadata entries"),
    ("a.txt", b"\xff\xfe", "expected metadata entries"),
    ("a.txt", b" \n!\n", "expected metadata entries, one per line, got none"),
    ("missing", None, "No such file"),
])  # fmt: skip
def test_bad_entries_name_the_file(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name}: .*{message}|{name}: {message}"):
        read_entries(tmp_path / name)


def test_limits_are_checked(tmp_path):
    with pytest.raises(ConfigError, match="balance_metadata: expected at least 1, got 0"):
        MetadataBalanceFilter(tmp_path, 0)
    with pytest.raises(ConfigError, match="max_per_class: expected at least 1, got 0"):
        ClassBalanceFilter(0)
