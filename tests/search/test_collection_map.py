"""The map of a collection: an even sample, computed once, never from a damaged or older file."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from clipkit.collection import Collection
from clipkit.search import collection_map
from clipkit.search.collection_map import evenly_spread, map_collection
from tests.helpers.collections import write_collection


@pytest.fixture
def collection(tmp_path):
    return Collection(write_collection(tmp_path / "collection", counts=(30, 20)))


def test_the_sample_is_spread_over_all_rows():
    for num_rows, num_chosen in [(1, 5), (7, 7), (10, 3), (1000, 999), (10**9, 50)]:
        rows = evenly_spread(num_rows, num_chosen)
        assert len(rows) == min(num_rows, num_chosen)
        gaps = np.diff(np.concatenate([[-rows[0] - 1], rows, [2 * num_rows - 1 - rows[-1]]]))
        assert gaps.min() >= 1
        assert gaps.max() - gaps.min() <= 2
    assert len(evenly_spread(0, 5)) == 0


def test_points_have_their_rows_and_labels(collection):
    points = map_collection(collection, 20)
    assert points.positions.shape == (20, 2)
    assert np.abs(points.positions).max() <= 1.0001
    expected = collection.table(["label"]).column("label").to_pylist()
    assert points.labels.tolist() == [expected[row] for row in points.rows]


def test_the_map_is_computed_once(collection, monkeypatch):
    first = map_collection(collection, 20)
    monkeypatch.setattr(collection_map, "project", lambda rows: pytest.fail("computed again"))
    again = map_collection(collection, 20)
    assert np.array_equal(first.positions, again.positions)


def test_other_embeddings_have_another_map(tmp_path):
    folders = [write_collection(tmp_path / str(seed), (30,), seed=seed) for seed in (0, 1)]
    points = map_collection(Collection(folders[0]), 20)
    shutil.copy(folders[0] / "map-20.npz", folders[1])
    assert not np.array_equal(
        map_collection(Collection(folders[1]), 20).positions, points.positions
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut", b"\x93NUMPY", b"\x80\x04pickle"])
def test_a_damaged_file_is_replaced(collection, content):
    first = map_collection(collection, 20)
    (collection.folder / "map-20.npz").write_bytes(content)
    assert np.array_equal(map_collection(collection, 20).positions, first.positions)
    assert (collection.folder / "map-20.npz").stat().st_size > 1000 // 8


def test_objects_of_a_file_are_not_unpickled(collection):
    first = map_collection(collection, 20)
    np.savez(collection.folder / "map-20.npz", digest=np.array({}, dtype=object), positions=[0])
    assert np.array_equal(map_collection(collection, 20).positions, first.positions)


def test_a_folder_that_cannot_be_written_still_has_a_map(collection, monkeypatch):
    def full(path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(collection_map, "new_file", full)
    assert len(map_collection(collection, 20).rows) == 20
    assert not (collection.folder / "map-20.npz").exists()


def test_images_without_embedding_have_no_point(collection):
    path = collection.folder / "00000.images.f16.npy"
    images = np.load(path)
    images[3] = 0
    np.save(path, images)
    assert 3 not in map_collection(collection, 50).rows
    assert len(map_collection(collection, 50).rows) == 49
