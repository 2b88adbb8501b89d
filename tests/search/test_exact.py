"""Exact search equals NumPy's full product and a stable sort, whatever the tile and mask."""

import numpy as np
import pytest
import torch

from clipkit.collection import Collection, ShardRows, write_shard_files
from clipkit.errors import ConfigError, MetricError
from clipkit.search import NO_ROW, ExactEngine
from clipkit.search.exact_scores import exact_scores, product_error
from tests.helpers.collections import unit_rows, write_collection


def oracle(vectors, queries, k, allowed):
    """Full product in float64, rounded once; the lower row first among equals."""
    scores = (queries.astype(np.float64) @ vectors.astype(np.float64).T).astype(np.float32)
    scores[:, ~allowed] = -np.inf
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, order, 1), order


def vectors_of(collection):
    return np.concatenate([np.array(tile) for _, tile in collection.image_tiles()])


def queries_of(count, width, seed=7):
    return unit_rows(count, width, seed).astype(np.float32)


@pytest.mark.parametrize("tile_rows", [1, 7, 64, 8192])
@pytest.mark.parametrize("count", [1, 10, 500])
def test_equal_to_the_full_product(tmp_path, tile_rows, count):
    collection = Collection(write_collection(tmp_path, counts=(150, 0, 90, 60), width=24))
    queries = queries_of(5, 24)
    allowed = np.random.default_rng(3).random(300) < 0.8
    found = ExactEngine(collection, tile_rows).search(queries, count, allowed)
    scores, rows = oracle(vectors_of(collection), queries, min(count, allowed.sum()), allowed)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-7)


def test_many_results_are_not_sorted_again_for_each_tile(tmp_path, monkeypatch):
    collection = Collection(write_collection(tmp_path, counts=(600,), width=8))
    sort, calls = np.lexsort, []
    monkeypatch.setattr(np, "lexsort", lambda keys: calls.append(len(keys[0])) or sort(keys))
    queries = queries_of(1, 8)
    found = ExactEngine(collection, tile_rows=5).search(queries, 200)
    assert sum(calls) < 20 * 200
    scores, rows = oracle(vectors_of(collection), queries, 200, np.ones(600, dtype=bool))
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_allclose(found.scores, scores, rtol=0, atol=1e-7)


def with_equal_rows(folder, width=48):
    """A collection of 400 rows in which each vector occurs 80 times."""
    collection = Collection(write_collection(folder, counts=(200, 200), width=width))
    rows = unit_rows(5, width, 1)[np.arange(200) % 5]
    for files in collection.shards:
        columns = files.table().to_pydict()
        write_shard_files(ShardRows(rows, None, columns), folder, files.shard.name)
    return Collection(folder)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("tile_rows", [3, 10, 399])
def test_of_equal_images_the_lower_rows_come_first(tmp_path, tile_rows, threads):
    collection = with_equal_rows(tmp_path)
    query = unit_rows(5, 48, 1)[2:3].astype(np.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = ExactEngine(collection, tile_rows).search(query, 100)
    finally:
        torch.set_num_threads(before)
    assert found.rows[0, :80].tolist() == list(range(2, 400, 5))
    assert len(set(found.scores[0, :80].tolist())) == 1


def test_rows_with_an_error_or_without_numbers_are_never_found(tmp_path):
    collection = Collection(write_collection(tmp_path, counts=(20,), width=8))
    table = collection.shards[0].table().to_pydict()
    table["error"][4] = "cannot be decoded"
    rows = unit_rows(20, 8, 0)
    rows[4] = 0
    rows[9] = np.nan
    rows[11] = np.inf
    write_shard_files(ShardRows(rows, None, table), tmp_path, "00000")
    found = ExactEngine(Collection(tmp_path)).search(queries_of(2, 8), 20)
    for query in found.rows:
        assert sorted(set(query.tolist()) - {NO_ROW}) == [
            row for row in range(20) if row not in (4, 9, 11)
        ]
    assert (found.scores[:, -2:] == -np.inf).all()


def test_an_empty_mask_has_no_results(tmp_path):
    engine = ExactEngine(Collection(write_collection(tmp_path)))
    found = engine.search(queries_of(1, 8), 3, np.zeros(8, dtype=bool))
    assert found.rows.tolist() == [[NO_ROW]]


def test_bad_queries_are_refused(tmp_path):
    engine = ExactEngine(Collection(write_collection(tmp_path)))
    bad = queries_of(3, 8)
    bad[1, 2] = np.nan
    with pytest.raises(MetricError, match="query 1: expected finite numbers"):
        engine.search(bad, 3)
    with pytest.raises(ConfigError, match="vectors of 8 components"):
        engine.search(queries_of(1, 9), 3)
    with pytest.raises(ConfigError, match="num_results: expected at least 1"):
        engine.search(queries_of(1, 8), 0)
    with pytest.raises(ConfigError, match="mask of 8 rows"):
        engine.search(queries_of(1, 8), 1, np.ones(9, dtype=bool))


def test_the_error_of_a_float32_product_is_within_the_bound():
    rows, query = unit_rows(2000, 512, 0), queries_of(1, 512)[0]
    exact = exact_scores(rows, query)
    product = rows.astype(np.float32) @ query
    assert np.abs(product - exact).max() < product_error(float(np.linalg.norm(query)), 512)
