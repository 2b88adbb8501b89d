from __future__ import annotations

import numpy as np
import pytest

from clipkit.collection import Collection
from clipkit.curation.clusters import cluster_images, default_num_clusters
from clipkit.errors import ConfigError, DataError
from tests.helpers.collections import set_errors, write_collection


def test_each_row_is_in_the_cluster_of_the_most_similar_centre(tmp_path):
    collection = Collection(write_collection(tmp_path, counts=(30, 20, 10)))
    calls = []
    clusters = cluster_images(collection, 5, on_rows=lambda *counts: calls.append(counts))
    images = collection.images(np.arange(60)).astype(np.float64)
    products = images @ clusters.centres.T.astype(np.float64)
    assert (products.argmax(1) == clusters.labels).all()
    assert clusters.similarities == pytest.approx(products.max(1), abs=1e-5)
    assert clusters.sizes.sum() == 60
    assert (np.diff(clusters.sizes) <= 0).all()
    assert clusters.sizes.min() > 0
    assert calls == [(30, 60), (50, 60), (60, 60)]
    nearest = clusters.members(0)
    assert (np.diff(clusters.similarities[nearest]) <= 0).all()
    assert (clusters.labels[nearest] == 0).all()


def test_rows_without_an_embedding_are_left_out(tmp_path):
    folder = write_collection(tmp_path, counts=(30, 20))
    set_errors(folder, "00001", {0, 7})
    np.save(folder / "00001.images.f16.npy", _zeroed(folder / "00001.images.f16.npy", [0, 7]))
    clusters = cluster_images(Collection(folder), 3)
    assert np.flatnonzero(clusters.labels < 0).tolist() == [30, 37]
    assert clusters.sizes.sum() == 48
    with pytest.raises(ConfigError, match=r"expected 1 to 48, the number of images.*got 49"):
        cluster_images(Collection(folder), 49)


def _zeroed(path, rows):
    images = np.load(path)
    images[rows] = 0
    return images


def test_a_collection_without_embeddings_is_refused(tmp_path):
    folder = write_collection(tmp_path, counts=(2,))
    set_errors(folder, "00000", {0, 1})
    with pytest.raises(DataError, match="no image has an embedding"):
        cluster_images(Collection(folder))


@pytest.mark.parametrize(("images", "wanted"), [(1, 1), (3, 2), (200, 10), (10**9, 64)])
def test_the_number_of_clusters_grows_with_the_data(images, wanted):
    assert default_num_clusters(images) == wanted
