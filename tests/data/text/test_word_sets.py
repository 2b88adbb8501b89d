"""Similarity of captions by words, and the signatures that find it."""

from __future__ import annotations

import numpy as np

from clipkit.data.text.scripts import script_of
from clipkit.data.text.word_sets import NUM_HASHES, min_hashes, similarity, word_hashes, words_of


def jaccard(one: str, other: str) -> float:
    a, b = set(words_of(one)), set(words_of(other))
    return len(a & b) / len(a | b)


def test_case_punctuation_and_encodings_make_no_difference():
    assert words_of("A CAFÉ, by the sea!") == words_of("a cafe\u0301 by the sea")
    assert words_of("ＦＵＬＬ width") == ["full", "width"]
    assert words_of("... !") == []


def test_scripts_without_spaces_are_cut_into_characters():
    assert words_of("两只狗 on grass") == ["两", "只", "狗", "on", "grass"]


def test_similarity_is_the_share_of_common_words():
    one, other = "two dogs run on the grass", "two dogs play on green grass"
    hashes = word_hashes(words_of(one)), word_hashes(words_of(other))
    assert similarity(*hashes) == jaccard(one, other)
    assert similarity(hashes[0], hashes[0]) == 1


def test_signatures_estimate_the_similarity():
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(200):
        common = int(rng.integers(0, 20))
        words = [str(word) for word in rng.permutation(1000)[:40]]
        one, other = words[:20], words[20 - common : 40 - common]
        signatures = min_hashes(word_hashes(one)), min_hashes(word_hashes(other))
        expected = len(set(one) & set(other)) / len(set(one) | set(other))
        errors.append((signatures[0] == signatures[1]).mean() - expected)
    assert abs(np.mean(errors)) < 0.02
    assert np.std(errors) < 1.5 * 0.5 / NUM_HASHES**0.5


def test_hashes_are_the_same_on_every_machine():
    assert word_hashes(["a", "dog"]).tolist() == WORDS
    assert min_hashes(word_hashes(["a", "dog"]))[:3].tolist() == LEAST


def test_scripts():
    texts = ["two dogs", "zwei Hunde, süß", "две собаки", "δύο σκύλοι", "كلبان", "二匹の犬",
             "两只狗", "개 두 마리", "दो कुत्ते", "สุนัขสองตัว", "3 !", ""]  # fmt: skip
    assert [script_of(text) for text in texts] == [
        "Latin", "Latin", "Cyrillic", "Greek", "Arabic", "Kana", "Han", "Hangul", "Devanagari",
        "Thai", "none", "none",
    ]  # fmt: skip


WORDS = [1431053258, 2691776247]
LEAST = [1123468026, 3641735927, 627638306]
