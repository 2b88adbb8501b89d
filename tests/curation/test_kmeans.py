"""Spherical k-means against a loop, and against scikit-learn's on clear clusters."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from clipkit.curation.clusters import nearest_centres, spherical_kmeans
from clipkit.curation.clusters.kmeans import fill_empty, first_centres, mean_directions
from clipkit.errors import ConfigError


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def planted(num_clusters=6, per_cluster=40, width=16, noise=0.15, seed=0):
    rng = np.random.default_rng(seed)
    centres = unit(rng.standard_normal((num_clusters, width)))
    truth = np.repeat(np.arange(num_clusters), per_cluster)
    noisy = centres[truth] + noise * rng.standard_normal((len(truth), width)) / np.sqrt(width)
    return unit(noisy), truth


def lloyd_loop(rows, centres, steps):
    """Lloyd's algorithm, row by row, without the repair of empty clusters."""
    labels = []
    for _ in range(steps):
        labels = [max(range(len(centres)), key=lambda c: float(row @ centres[c])) for row in rows]
        for number in range(len(centres)):
            own = [row for row, label in zip(rows, labels, strict=True) if label == number]
            if own:
                total = np.sum(own, axis=0, dtype=np.float64)
                centres[number] = total / np.linalg.norm(total)
    return np.array(labels), centres


def test_one_step_is_that_of_a_loop():
    rows = unit(np.random.default_rng(1).standard_normal((200, 12)))
    start = rows[:7].copy()
    labels, similarities = nearest_centres(rows, start)
    wanted_labels, wanted = lloyd_loop(rows, start.copy(), steps=1)
    assert (labels == wanted_labels).all()
    assert mean_directions(rows, labels, start) == pytest.approx(wanted, abs=1e-6)
    assert similarities == pytest.approx(
        [row @ start[n] for row, n in zip(rows, labels, strict=True)], abs=1e-6
    )


def test_clear_clusters_are_those_of_scikit_learn():
    rows, truth = planted()
    centres = spherical_kmeans(rows, 6)
    labels, _ = nearest_centres(rows, centres)
    theirs = KMeans(6, n_init=10, random_state=0).fit_predict(rows)
    assert adjusted_rand_score(labels, truth) == 1.0
    assert adjusted_rand_score(labels, theirs) == 1.0


def test_the_objective_is_near_that_of_scikit_learn_without_clear_clusters():
    rows = unit(np.random.default_rng(2).standard_normal((600, 8)))
    ours = np.mean([nearest_centres(rows, spherical_kmeans(rows, 10, s))[1].mean() for s in (0, 1)])
    theirs = KMeans(10, n_init=1, random_state=0).fit(rows)
    centres = unit(theirs.cluster_centers_)
    assert ours > nearest_centres(rows, centres)[1].mean() - 0.02


def test_a_seed_gives_the_same_centres():
    rows, _ = planted(noise=1.0)
    assert (spherical_kmeans(rows, 5, seed=3) == spherical_kmeans(rows, 5, seed=3)).all()
    assert not np.array_equal(spherical_kmeans(rows, 5, seed=3), spherical_kmeans(rows, 5, seed=4))


def test_centres_have_unit_norm_and_no_cluster_is_empty():
    rows, _ = planted(noise=2.0)
    centres = spherical_kmeans(rows, 40)
    assert np.linalg.norm(centres, axis=1) == pytest.approx(np.ones(len(centres)), abs=1e-5)
    assert len(np.unique(nearest_centres(rows, centres)[0])) == 40


def test_equal_rows_give_fewer_clusters():
    rows = np.repeat(unit(np.eye(4)[:3] + 0.1), 5, axis=0)
    assert len(spherical_kmeans(rows, 8)) == 3


def test_the_first_centres_are_distinct_rows():
    rows = np.concatenate([np.repeat(unit(np.ones((1, 4))), 99, axis=0), unit(np.eye(4)[:1])])
    for seed in range(5):
        assert len(np.unique(first_centres(rows, 2, np.random.default_rng(seed)), axis=0)) == 2


def test_an_empty_cluster_gets_the_least_similar_row_that_can_be_spared():
    labels = np.array([0, 0, 0, 2])
    similarities = np.array([0.9, 0.2, 0.5, 0.1], dtype=np.float32)
    assert fill_empty(labels, similarities, 3).tolist() == [0, 1, 0, 2]
    assert fill_empty(np.array([0]), similarities[:1], 3).tolist() == [0]


def test_opposite_rows_keep_the_centre():
    rows = np.array([[1, 0], [-1, 0]], dtype=np.float32)
    centres = np.array([[0, 1]], dtype=np.float32)
    assert mean_directions(rows, np.array([0, 0]), centres).tolist() == [[0, 1]]


def test_wrong_calls_are_named():
    rows, _ = planted()
    with pytest.raises(ConfigError, match="num_clusters: expected at least 1, got 0"):
        spherical_kmeans(rows, 0)
    with pytest.raises(ConfigError, match="expected at least one row"):
        spherical_kmeans(rows[:0], 2)
