"""Which copy is kept, against plain loops over all pairs."""

from __future__ import annotations

import hashlib
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.curation.candidates import Candidates
from clipkit.curation.filters import (
    EmbeddingDuplicateFilter,
    FileDuplicateFilter,
    ImageDuplicateFilter,
    KnownEmbeddingFilter,
    KnownImageFilter,
)
from clipkit.curation.filters.copies import cells, embedding_copies, similar
from clipkit.curation.filters.copies.preference import (
    copies_of_equal,
    copies_of_pairs,
    preference,
    ranks,
)
from clipkit.data.images.perceptual_hash import image_signature
from clipkit.errors import ConfigError, DataError
from tests.helpers.given_collections import at_angles, collection_of
from tests.helpers.planted_copies import COPIES, drawing


def kept_in_order(is_near, rank):
    """The definition: in the order of the ranks, a row is kept unless it is near a kept one."""
    kept = []
    for row in np.argsort(rank).tolist():
        if not any(is_near(row, other) for other in kept):
            kept.append(row)
    return sorted(kept)


def test_the_memory_for_cells_is_bounded():
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((4096, 4), dtype=np.float32)
    centres = rng.standard_normal((4096, 4), dtype=np.float32)
    tracemalloc.start()
    found = cells.nearest_cells(rows, centres)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6  # all products alone are 67 MB, their order 134 MB
    some = np.arange(0, 4096, 100)
    products = rows[some] @ centres.T
    best = np.sort(products, axis=1)[:, -2:]
    chosen = np.take_along_axis(products, found[some].astype(np.int64), axis=1)
    np.testing.assert_allclose(np.sort(chosen, axis=1), best, rtol=1e-5)


def test_more_pixels_then_scores_then_first_rows_are_preferred():
    areas = np.array([4.0, 9.0, 9.0, 9.0, np.nan])
    scores = np.array([0.9, 0.1, np.nan, 0.1, 0.9])
    assert np.argsort(ranks(areas, scores)).tolist() == [1, 3, 2, 0, 4]


@given(st.lists(st.integers(0, 3), max_size=12), st.randoms())
def test_one_of_equal_rows_is_kept(values, random):
    rank = list(range(len(values)))
    random.shuffle(rank)
    copy_of = copies_of_equal(np.array(values, np.int64)[:, None], np.array(rank, np.int64))
    for row, value in enumerate(values):
        preferred = min((r for r, v in enumerate(values) if v == value), key=rank.__getitem__)
        assert copy_of[row] == (-1 if row == preferred else preferred)


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).filter(lambda p: p[0] != p[1])),
    st.permutations(range(10)),
)
def test_copies_of_pairs_are_near_a_kept_row(pairs, rank):
    first, second = (np.array([p[k] for p in pairs], np.int64) for k in (0, 1))
    copy_of = copies_of_pairs(first, second, np.array(rank))
    near = set(pairs) | {(b, a) for a, b in pairs}
    assert np.flatnonzero(copy_of == -1).tolist() == kept_in_order(
        lambda a, b: (a, b) in near, np.array(rank)
    )
    for row in np.flatnonzero(copy_of >= 0).tolist():
        assert (row, int(copy_of[row])) in near
        assert copy_of[copy_of[row]] == -1


def sha(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


def test_equal_files(tmp_path):
    hashes = [sha("a"), sha("b"), sha("a"), None, sha("a"), None]
    collection = collection_of(
        tmp_path / "c", [2, 4], image_sha256=hashes,
        width_pixels=[10, 10, 20, 1, 20, 1], height_pixels=[10, 10, 20, 1, 20, 1],
        texts=[at_angles([a]) for a in (0, 0, 50, 0, 30, 0)],
    )  # fmt: skip
    decision = FileDuplicateFilter().decide(Candidates(collection))
    assert decision.copy_of is not None
    assert decision.copy_of.tolist() == [4, -1, 4, -1, -1, -1]
    assert decision.removed.tolist() == [True, False, True, False, False, False]
    part = Candidates(collection, np.array([0, 1, 2]))
    assert FileDuplicateFilter().decide(part).copy_of.tolist() == [2, -1, -1]


@pytest.fixture(scope="module")
def drawings(tmp_path_factory):
    """Twelve drawings, and each kind of copy of the first three, as signatures."""
    folder = tmp_path_factory.mktemp("drawings")
    signatures, originals, names = [], [], []
    for number in range(12):
        for kind in ("own", *COPIES) if number < 3 else ("own",):
            image = drawing(number)
            pixels, form, options = COPIES.get(kind, lambda i: (i, "PNG", {}))(image)
            path = folder / f"{number}-{kind}"
            pixels.save(path, form, **options)
            signatures.append(image_signature(path.read_bytes()).astype("<u8").tobytes())
            originals.append(number)
            names.append(kind)
    return signatures, originals, names


def test_images_that_look_alike(tmp_path, drawings):
    signatures, originals, names = drawings
    sides = [1 if name == "own" else 2 if name == "mirrored" else 0 for name in names]
    collection = collection_of(
        tmp_path / "c", [5, len(names) - 5], image_signature=signatures, width_pixels=sides,
        height_pixels=sides,
    )  # fmt: skip
    decision = ImageDuplicateFilter().decide(Candidates(collection))
    assert decision.copy_of is not None
    for row, original in enumerate(originals):
        mirrored = [r for r, n in enumerate(names) if n == "mirrored" and originals[r] == original]
        expected = mirrored[0] if mirrored and row != mirrored[0] else -1
        assert decision.copy_of[row] == expected, (names[row], original)
        assert (decision.values[row] <= 24) == (expected >= 0)


def test_no_signature_is_kept(tmp_path):
    collection = collection_of(tmp_path / "c", [3])
    decision = ImageDuplicateFilter().decide(Candidates(collection))
    assert decision.removed.tolist() == [False] * 3
    assert FileDuplicateFilter().decide(Candidates(collection)).removed.tolist() == [False] * 3


def test_images_of_evaluation_data_are_removed(tmp_path, drawings):
    signatures, originals, names = drawings
    first = [r for r, n in enumerate(names) if n == "own" and originals[r] in (0, 5)]
    known = collection_of(
        tmp_path / "known", [1, 2],
        image_signature=[None, *(signatures[r] for r in first)],
    )  # fmt: skip
    collection = collection_of(tmp_path / "c", [len(names)], image_signature=signatures)
    decision = KnownImageFilter(known.folder).decide(Candidates(collection))
    expected = {0: 1, 5: 2}
    assert decision.copy_of is not None
    assert decision.copy_of.tolist() == [expected.get(original, -1) for original in originals]
    assert decision.copies_from == str(known.folder)


def random_groups(num_rows: int, seed: int, width: int = 16) -> np.ndarray:
    """Rows around few directions, so that pairs of any similarity exist."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((max(1, num_rows // 6), width))
    rows = centres[rng.integers(len(centres), size=num_rows)]
    rows = rows + 0.35 * rng.standard_normal(rows.shape)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def embedded(folder: Path, images: np.ndarray, seed: int = 0) -> Candidates:
    rng = np.random.default_rng(seed)
    sides = rng.integers(1, 4, len(images)).tolist()
    counts = [len(images) // 2, 0, len(images) - len(images) // 2]
    collection = collection_of(
        folder, counts, images=images, width_pixels=sides, height_pixels=sides,
        texts=[rows[None] for rows in random_groups(len(images), seed + 1, images.shape[1])],
    )  # fmt: skip
    return Candidates(collection)


def exact_similarities(candidates: Candidates) -> np.ndarray:
    rows = candidates.collection.images(candidates.rows).astype(np.float64)
    return rows @ rows.T


@pytest.mark.parametrize(("tile", "kept"), [(1024, 16_384), (7, 5)])
def test_similar_embeddings(tmp_path, monkeypatch, tile, kept):
    monkeypatch.setattr(similar, "TILE_ROWS", tile)
    monkeypatch.setattr(similar, "_KEPT_ROWS", kept)
    candidates = embedded(tmp_path / "c", random_groups(150, seed=3))
    rank = preference(candidates)
    similarities = exact_similarities(candidates)
    threshold = 0.8123  # no pair is that near to it
    assert np.abs(similarities - threshold).min() > 1e-6
    decision = EmbeddingDuplicateFilter(threshold).decide(candidates)
    expected = kept_in_order(lambda a, b: similarities[a, b] >= threshold, rank)
    assert np.flatnonzero(~decision.removed).tolist() == expected
    assert 20 < len(expected) < 130
    assert decision.copy_of is not None
    assert decision.nearest is not None
    for row in range(150):
        before = [k for k in expected if rank[k] < rank[row]]
        if before:
            most = max(before, key=lambda k: similarities[row, k])
            assert decision.nearest[row] == most
            assert decision.values[row] == pytest.approx(similarities[row, most], abs=1e-3)
        assert decision.copy_of[row] == (most if decision.removed[row] else -1)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([0.5, 0.7, 0.9]))
def test_copies_are_similar_to_kept_rows_inside_cells(tmp_path_factory, seed, threshold):
    """Each copy is similar to the row that it is a copy of, and most pairs are found."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "EXACT_ROWS", 10)
        candidates = embedded(tmp_path_factory.mktemp("cells"), random_groups(120, seed), seed)
        decision = EmbeddingDuplicateFilter(threshold).decide(candidates)
    similarities = exact_similarities(candidates)
    copies = np.flatnonzero(decision.removed)
    assert decision.copy_of is not None
    assert decision.nearest is not None
    assert (similarities[copies, decision.nearest[copies]] >= threshold - 1e-3).all()
    assert not decision.removed[decision.copy_of[copies]].any()
    kept = np.flatnonzero(~decision.removed)
    left = np.triu(similarities[np.ix_(kept, kept)] >= threshold + 1e-3, 1).sum()
    all_pairs = np.triu(similarities >= threshold, 1).sum()
    assert left <= 0.05 * all_pairs + 1


def test_cells_depend_on_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "EXACT_ROWS", 10)
    candidates = embedded(tmp_path / "c", random_groups(100, seed=1))
    first, second = (EmbeddingDuplicateFilter(0.8).decide(candidates) for _ in range(2))
    np.testing.assert_array_equal(first.removed, second.removed)
    np.testing.assert_array_equal(first.values, second.values)


def test_many_equal_embeddings_and_damaged_ones(tmp_path):
    images = np.tile(at_angles([10]), (2000, 1))
    images[5], images[6] = np.nan, 0.0
    collection = collection_of(tmp_path / "c", [2000], images=images)
    decision = EmbeddingDuplicateFilter().decide(Candidates(collection))
    assert np.flatnonzero(~decision.removed).tolist() == [0, 5, 6]


def test_embeddings_near_evaluation_data(tmp_path, monkeypatch):
    monkeypatch.setattr(embedding_copies, "EMBEDDING_ROWS", 7)
    monkeypatch.setattr(embedding_copies, "_TILE_ROWS", 5)
    known = collection_of(tmp_path / "known", [20, 10], images=random_groups(30, seed=5))
    images = np.concatenate([random_groups(40, seed=6), random_groups(30, seed=5)[::-1]])
    candidates = Candidates(collection_of(tmp_path / "c", [35, 35], images=images))
    decision = KnownEmbeddingFilter(known.folder, 0.95).decide(candidates)
    own = candidates.collection.images(candidates.rows).astype(np.float64)
    similarities = own @ known.images(np.arange(30)).astype(np.float64).T
    np.testing.assert_array_equal(decision.removed, similarities.max(1) >= 0.95)
    np.testing.assert_array_equal(decision.nearest, similarities.argmax(1))
    assert decision.removed[40:].all()


def test_embeddings_of_another_model_are_refused(tmp_path):
    first = collection_of(tmp_path / "a", [1])
    second = collection_of(tmp_path / "b", [1], model="other")
    with pytest.raises(ConfigError, match=r"not_near: expected .*b to be embedded by the model"):
        KnownEmbeddingFilter(second.folder).decide(Candidates(first))


def test_a_missing_collection_is_named(tmp_path):
    collection = collection_of(tmp_path / "a", [1])
    for kind in (KnownImageFilter, KnownEmbeddingFilter):
        with pytest.raises(DataError, match="nowhere: expected a collection"):
            kind(tmp_path / "nowhere").decide(Candidates(collection))


@pytest.mark.parametrize(("make", "message"), [
    (lambda: ImageDuplicateFilter(65), "image_duplicates: expected 0 to 64, got 65"),
    (lambda: EmbeddingDuplicateFilter(0.1), "embedding_duplicates: expected 0.3 to 1, got 0.1"),
    (lambda: KnownImageFilter(Path("x"), -1), "not_in: expected 0 to 64, got -1"),
    (lambda: KnownEmbeddingFilter(Path("x"), 2), "not_near: expected 0.3 to 1, got 2"),
])  # fmt: skip
def test_limits_are_checked(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
