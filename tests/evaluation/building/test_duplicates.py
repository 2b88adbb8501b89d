"""Near-duplicates against comparisons of all pairs, and the groups that they form."""

from __future__ import annotations

import networkx
import numpy as np
import pytest

from clipkit.data.images.perceptual_hash import WIDTH, centres, image_distances, mirrored
from clipkit.data.text.word_sets import words_of
from clipkit.evaluation.building.duplicates import image_duplicates, pair_search
from clipkit.evaluation.building.duplicates.caption_duplicates import (
    CaptionWords,
    duplicate_captions,
)
from clipkit.evaluation.building.duplicates.groups import Groups
from clipkit.evaluation.building.duplicates.image_duplicates import duplicate_images
from clipkit.evaluation.building.duplicates.pair_search import PairSearch, bands


def planted(num_images: int, num_bits: int, seed: int = 0) -> np.ndarray:
    """Random signatures, and for each a copy in which some bits differ, at an odd place."""
    rng = np.random.default_rng(seed)
    own = rng.integers(0, 2**63, (num_images, WIDTH)).astype(np.uint64)
    own[:, 4] = 0x8080808080808080  # grey
    copies = own.copy()
    for row in copies:
        for bit in rng.choice(128, num_bits, replace=False).tolist():
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    return np.concatenate([own, copies])


@pytest.mark.parametrize("change", ["none", "mirrored", "centre"])
def test_copies_are_found_among_many(change):
    signatures = planted(400, 12)
    copies = signatures[400:]
    if change == "mirrored":
        copies = mirrored(copies)
    elif change == "centre":  # the copy shows what the centre of the image shows
        signatures[:400, 2:4] = copies[:, :2]
        copies = planted(400, 0, seed=1)[:400]
        copies[:, :2] = signatures[:400, 2:4]
    found = duplicate_images(np.concatenate([signatures[:400], copies]), 24)
    pairs = set(zip(found.pairs.first.tolist(), found.pairs.second.tolist(), strict=True))
    assert pairs == {(each, each + 400) for each in range(400)}
    assert found.num_cut == 0


def test_all_pairs_of_a_small_set_are_those_of_a_full_comparison():
    rng = np.random.default_rng(3)
    centre = planted(1, 0)[:1]
    rows = np.repeat(centre, 60, axis=0)
    for row in rows:
        for bit in rng.choice(128, int(rng.integers(1, 30)), replace=False).tolist():
            row[bit // 64] ^= np.uint64(1) << np.uint64(bit % 64)
    found = duplicate_images(rows, 20)
    same = found.same
    entries = rows[found.representatives]
    expected = {}
    for a in range(len(entries)):
        for b in range(a + 1, len(entries)):
            one, other = entries[a : a + 1], entries[b : b + 1]
            distance = min(
                int(image_distances(x, y)[0])
                for x, y in (
                    (one, other), (one, mirrored(other)), (mirrored(one), other),
                    (one, centres(other)), (centres(one), other),
                    (mirrored(one), centres(other)), (centres(one), mirrored(other)),
                )
            )  # fmt: skip
            if distance <= 20:
                expected[a, b] = distance
    got = dict(
        zip(
            zip(found.pairs.first.tolist(), found.pairs.second.tolist(), strict=True),
            found.pairs.values.tolist(),
            strict=True,
        )
    )
    assert got == expected
    assert len(same) == 60


def test_most_copies_are_found_among_many_images(monkeypatch):
    """With parts of 13 bits, as for a million images, a single division finds two thirds."""
    monkeypatch.setattr(image_duplicates, "_band_bits", lambda _: 13)
    for num_bits, least in ((5, 0.99), (12, 0.97), (20, 0.75)):
        found = duplicate_images(planted(1000, num_bits), 24)
        assert len(found.pairs) >= least * 1000


def test_equal_images_are_one_set():
    rows = np.repeat(planted(3, 0)[:3], [1, 50, 2], axis=0)
    found = duplicate_images(rows, 0)
    assert found.same.tolist() == [0] + [1] * 50 + [2] * 2
    assert found.representatives.tolist() == [0, 1, 51]
    assert len(found.pairs) == 0


def test_one_image_and_none():
    assert len(duplicate_images(planted(1, 0)[:1], 24).pairs) == 0
    assert duplicate_images(np.empty((0, WIDTH), np.uint64), 24).same.tolist() == []


def test_rows_of_one_value_are_compared_with_their_next_neighbours(monkeypatch):
    monkeypatch.setattr(pair_search, "MAX_NEIGHBOURS", 3)
    search = PairSearch()
    bits = np.arange(10, dtype=np.uint64)[::-1][:, None]
    pairs = [
        pair
        for batch in search.pairs(np.zeros(10, np.uint64), bits)
        for pair in zip(*batch, strict=True)
    ]
    assert {abs(int(a) - int(b)) for a, b in pairs} == {1, 2, 3}
    assert search.num_cut == 6


def test_bands_hold_all_bits_once():
    rng = np.random.default_rng(0)
    words = rng.integers(0, 2**63, (4, 2)).astype(np.uint64)
    for num_bits in (1, 5, 13, 16, 64):
        parts = list(bands(words, num_bits))
        assert len(parts) == 128 // num_bits
        for row in range(4):
            value = sum(int(part[row]) << (num_bits * at) for at, part in enumerate(parts))
            total = int(words[row, 0]) | int(words[row, 1]) << 64
            assert value == total & ((1 << num_bits * len(parts)) - 1)


CAPTIONS = [
    "A dog runs over the green grass of a park near the old river",
    "a dog runs over the green grass of a park near the old river!",
    "a dog runs over the green grass of a park near the old wide river",
    "a cat sleeps",
    "sleeps a cat",
    "a bird sings",
    "🐶",
    "🐱",
]


def caption_words(captions: list[str]) -> CaptionWords:
    words = CaptionWords()
    for owner, caption in enumerate(captions):
        words.append(owner, caption)
    return words


def test_captions_with_nearly_the_same_words():
    found = duplicate_captions(caption_words(CAPTIONS), 0.9)
    assert found.same.tolist() == [0, 0, 1, 2, 2, 3, 4, 5]
    assert (found.pairs.first.tolist(), found.pairs.second.tolist()) == ([0], [1])


@pytest.mark.parametrize("least", [0.5, 0.7, 0.85, 0.9])
def test_captions_against_a_comparison_of_all_pairs(least):
    rng = np.random.default_rng(1)
    vocabulary = [f"word{n}" for n in range(60)]
    captions = []
    for _ in range(60):
        chosen = rng.choice(vocabulary, int(rng.integers(5, 16)), replace=False).tolist()
        for _ in range(3):
            changed = chosen.copy()
            changed[int(rng.integers(len(changed)))] = str(rng.choice(vocabulary))
            captions.append(" ".join(changed))
    words = caption_words(captions)
    found = duplicate_captions(words, least)
    sets = [set(words_of(captions[first])) for first in found.representatives]
    expected = {
        (a, b)
        for a in range(len(sets))
        for b in range(a + 1, len(sets))
        if len(sets[a] & sets[b]) / len(sets[a] | sets[b]) >= least
    }
    got = set(zip(found.pairs.first.tolist(), found.pairs.second.tolist(), strict=True))
    assert got <= expected
    assert len(got) >= 0.95 * len(expected) > 0


def test_no_captions():
    found = duplicate_captions(CaptionWords(), 0.9)
    assert len(found.pairs) == len(found.same) == 0


def test_groups_are_the_connected_components():
    rng = np.random.default_rng(0)
    edges = rng.integers(0, 300, (160, 2))
    values = np.where(rng.random(300) < 0.1, rng.integers(0, 8, 300), -1)
    groups = Groups(300)
    groups.join(edges[:, 0], edges[:, 1])
    groups.join_equal(values)
    graph = networkx.Graph()
    graph.add_nodes_from(range(300))
    graph.add_edges_from(edges.tolist())
    for value in range(8):
        members = np.nonzero(values == value)[0].tolist()
        networkx.add_path(graph, members)
    expected = np.empty(300, np.int64)
    for members in networkx.connected_components(graph):
        expected[list(members)] = min(members)
    assert groups.numbers().tolist() == expected.tolist()
