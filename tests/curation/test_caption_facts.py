"""Counts of captions against plain counters."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from clipkit.curation.overview.caption_facts import CaptionCounter
from clipkit.curation.overview.duplicate_facts import duplicate_facts
from clipkit.curation.overview.frequent_items import FrequentItems
from clipkit.data.text.word_sets import words_of


def counted(*samples):
    counter = CaptionCounter()
    counter.add(samples, [[words_of(text) for text in of_sample] for of_sample in samples])
    return counter.facts()


def test_frequent_items_are_never_counted_too_high_and_too_low_by_at_most_the_error():
    rng = np.random.default_rng(0)
    stream = [f"w{number}" for number in rng.zipf(1.5, 20_000)]
    items, exact = FrequentItems(capacity=100), Counter(stream)
    for start in range(0, len(stream), 500):
        items.add(stream[start : start + 500])
    assert items.num_items == 20_000
    assert 0 < items.error <= 20_000 / 100
    found = dict(items.most_common(10**6))
    assert len(found) <= 200
    for item, count in exact.items():
        assert count - items.error <= found.get(item, 0) <= count
    assert [item for item, _ in items.most_common(5)] == [item for item, _ in exact.most_common(5)]


def test_few_items_are_counted_exactly_in_a_fixed_order():
    items = FrequentItems(capacity=10)
    items.add(["b", "a", "b", "c", "a"])
    assert items.most_common(2) == [("a", 2), ("b", 2)]
    assert items.most_common(9, min_count=2) == [("a", 2), ("b", 2)]
    assert items.error == 0


def test_repeated_captions_are_compared_by_their_words():
    facts = counted(["A dog.", "a cat"], ["a DOG"], [], ["a dog runs"])
    assert (facts.num_captions, facts.num_samples_without, facts.num_repeated) == (4, 1, 1)
    assert facts.words == {2: 3, 3: 1}
    assert facts.frequent == ()


def test_phrases_begin_after_the_first_word():
    samples = [[f"a photo of a dog number {number} on the grass"] for number in range(9)]
    facts = counted(*samples)
    assert [(each.text, each.count) for each in facts.beginnings] == [("a photo of", 9)]
    assert ("photo of a dog", 9) in [(each.text, each.count) for each in facts.phrases]
    assert "a photo of a" not in [each.text for each in facts.phrases]


def test_rare_phrases_are_no_boilerplate():
    assert counted(["one two three four five"], ["one two three four five"]).phrases == ()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("42", "no letters"),
        ("", "no letters"),
        ("see www.example.org", "web address"),
        ("IMG_1234.JPG", "file name"),
        ("a <b>dog</b>", "markup"),
        ("cats &amp; dogs", "markup"),
    ],
)
def test_texts_that_may_describe_no_image(text, kind):
    facts = counted([text], [text], ["a dog; his < her, 3.5 jpg"])
    assert {name: each.count for name, each in facts.suspicious.items()} == {kind: 2}
    assert facts.suspicious[kind].text == text


def test_scripts_are_counted_the_most_frequent_first():
    facts = counted(["zwei Hunde", "two dogs"], ["две собаки", "two dogs"])
    assert list(facts.scripts.items()) == [("Latin", 3), ("Cyrillic", 1)]


def test_a_book_is_no_caption_that_takes_all_memory():
    book = " ".join(f"word{number}" for number in range(50_000))
    facts = counted([book], [book])
    assert facts.words == {100: 2}
    assert len(facts.frequent[0].text) == 200
    assert facts.phrases == ()


def test_groups_of_copies():
    facts = duplicate_facts(
        "file", "one of equal files", np.array([-1, 0, 0, -1, 3, -1] + [5] * 20)
    )
    assert (facts.num_groups, facts.num_copies) == (3, 23)
    assert [(group.size, group.rows[0]) for group in facts.largest] == [(21, 5), (3, 0), (2, 3)]
    assert facts.largest[0].rows == (5, 6, 7, 8, 9, 10)


def test_no_copies():
    facts = duplicate_facts("file", "one of equal files", np.full(3, -1))
    assert (facts.num_groups, facts.num_copies, facts.largest) == (0, 0, ())
