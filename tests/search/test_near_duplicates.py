"""Groups of near duplicates equal those of a full similarity matrix."""

import numpy as np
import pytest

from clipkit.collection import Collection, ShardRows, write_shard_files
from clipkit.errors import ConfigError
from clipkit.search import near_duplicates as module
from clipkit.search.near_duplicates import near_duplicates
from clipkit.search.row_groups import RowGroups
from tests.helpers.collections import unit_rows, write_collection


def with_copies(folder, counts=(90, 40, 70), width=32, copies=30):
    """A collection in which some rows are others with a little noise, in chains."""
    collection = Collection(write_collection(folder, counts=counts, width=width))
    rng = np.random.default_rng(2)
    rows = np.concatenate([np.array(files.images()) for files in collection.shards])
    rows = rows.astype(np.float64)
    for _ in range(copies):
        source, target = rng.choice(len(rows), 2, replace=False)
        noisy = rows[source] + rng.normal(0, rng.choice([0.01, 0.05]), width)
        rows[target] = noisy / np.linalg.norm(noisy)
    parts = np.split(rows.astype(np.float16), np.cumsum(counts)[:-1])
    for files, part in zip(collection.shards, parts, strict=True):
        columns = files.table().to_pydict()
        write_shard_files(ShardRows(part, None, columns), folder, files.shard.name)
    return Collection(folder)


def components(matrix, rows):
    """Connected components of a full matrix, by search in breadth."""
    left, found = set(rows), []
    while left:
        group, wave = set(), {left.pop()}
        while wave:
            group |= wave
            wave = {b for a in wave for b in rows if matrix[a, b]} - group
        left -= group
        if len(group) > 1:
            found.append(tuple(sorted(int(row) for row in group)))
    return sorted(found, key=lambda group: (-len(group), group[0]))


@pytest.mark.parametrize(("block_rows", "tile_rows"), [(2048, 8192), (7, 11), (64, 50)])
@pytest.mark.parametrize("min_score", [0.9, 0.97])
def test_groups_are_the_components_of_the_full_matrix(
    tmp_path, monkeypatch, block_rows, tile_rows, min_score
):
    monkeypatch.setattr(module, "_TILE_ROWS", tile_rows)
    collection = with_copies(tmp_path)
    rows = np.concatenate([np.array(tile) for _, tile in collection.image_tiles()])
    matrix = (rows.astype(np.float64) @ rows.astype(np.float64).T) >= min_score
    allowed = np.random.default_rng(0).random(len(rows)) < 0.9
    for mask, numbers in ((None, range(len(rows))), (allowed, np.flatnonzero(allowed).tolist())):
        groups = near_duplicates(collection, min_score, mask, block_rows=block_rows)
        assert [group.rows for group in groups] == components(matrix, list(numbers))
        assert len(groups) > 3
        assert all(abs(group.scores[0] - 1) < 2e-3 for group in groups)


def test_many_equal_images_are_one_group(tmp_path):
    collection = Collection(write_collection(tmp_path, counts=(250, 250), width=8))
    rows = unit_rows(1, 8, 0).repeat(250, 0)
    for files in collection.shards:
        columns = files.table().to_pydict()
        columns["error"][3] = "cannot be decoded"
        write_shard_files(ShardRows(rows, None, columns), tmp_path, files.shard.name)
    (group,) = near_duplicates(Collection(tmp_path), 0.99, block_rows=64)
    assert group.rows == tuple(row for row in range(500) if row not in (3, 253))


def test_progress_is_reported_and_bad_limits_are_refused(tmp_path):
    collection = Collection(write_collection(tmp_path))
    seen = []
    near_duplicates(collection, 1.0, on_progress=lambda *at: seen.append(at), block_rows=5)
    assert seen == [(5, 8), (8, 8)]
    for bad in (0.1, 1.5, float("nan")):
        with pytest.raises(ConfigError, match=r"min_score: expected 0\.3 to 1"):
            near_duplicates(collection, bad)


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_rows_do_not_depend_on_the_order_of_pairs(seed):
    rng = np.random.default_rng(seed)
    pairs = rng.integers(0, 60, (35, 2))
    matrix = np.zeros((60, 60), dtype=bool)
    matrix[pairs[:, 0], pairs[:, 1]] = matrix[pairs[:, 1], pairs[:, 0]] = True
    at_once, one_by_one = RowGroups(60), RowGroups(60)
    at_once.join(pairs[:, 0], pairs[:, 1])
    for first, second in rng.permutation(pairs):
        one_by_one.join(np.array([second]), np.array([first]))
    expected = components(matrix, list(range(60)))
    for groups in (at_once, one_by_one):
        assert [tuple(members.tolist()) for members in groups.members()] == expected


def test_a_large_group_is_read_in_tiles(tmp_path, monkeypatch):
    collection = Collection(write_collection(tmp_path, counts=(60, 40), width=8))
    rows = np.repeat(unit_rows(1, 8, 0), 60, axis=0)
    columns = collection.shards[0].table().to_pydict()
    write_shard_files(ShardRows(rows, None, columns), tmp_path, "00000")
    read, sizes = Collection.images, []
    monkeypatch.setattr(
        Collection, "images", lambda self, rows: sizes.append(len(rows)) or read(self, rows)
    )
    monkeypatch.setattr("clipkit.search.near_duplicates._TILE_ROWS", 8)
    group = near_duplicates(Collection(tmp_path), 0.99, block_rows=8)[0]
    assert group.rows[:60] == tuple(range(60))
    assert np.allclose(group.scores[:60], 1.0, atol=1e-2)
    assert max(sizes) == 8
