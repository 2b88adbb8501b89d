"""A collection may have more shards than a process may open files."""

import os

import numpy as np
import pytest

from clipkit.collection import Collection, read_info
from clipkit.collection.embedding.missing import missing_shards
from clipkit.curation.candidates import Candidates
from clipkit.curation.filters.copies.embedding_copies import EmbeddingDuplicateFilter
from clipkit.errors import DataError
from clipkit.search import ExactEngine
from clipkit.search.index import BuildOptions, build_index, open_engine
from clipkit.search.near_duplicates import near_duplicates
from tests.helpers.collections import unit_rows, write_collection
from tests.helpers.open_files import few_open_files

_SHARDS = 300
_MORE_FILES = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_collection(
        tmp_path_factory.mktemp("many") / "shards", (2,) * _SHARDS, captions_per_image=0
    )


@pytest.fixture
def collection(folder):
    return Collection(folder)


def test_exact_search_of_all_shards(collection):
    queries = unit_rows(3, 8, seed=1).astype(np.float32)
    rows = np.concatenate([np.array(tile) for _, tile in collection.image_tiles()])
    best = (queries.astype(np.float64) @ rows.astype(np.float64).T).argmax(axis=1)
    with few_open_files(_MORE_FILES):
        found = ExactEngine(collection).search(queries, 2 * _SHARDS)
    assert found.rows[:, 0].tolist() == best.tolist()
    assert (np.sort(found.rows, axis=1) == np.arange(2 * _SHARDS)).all()


def test_an_index_of_all_shards(collection, monkeypatch):
    monkeypatch.setattr("clipkit.search.index.build.NUM_QUERIES", 10)
    with few_open_files(_MORE_FILES):
        info = build_index(collection, BuildOptions("IVF4,Flat", num_probes=4))
        found = open_engine(collection).search(unit_rows(1, 8, seed=1).astype(np.float32), 50)
    assert info.num_rows == 2 * _SHARDS
    assert (found.rows >= 0).all()


def test_copies_in_all_shards(collection):
    with few_open_files(_MORE_FILES):
        decision = EmbeddingDuplicateFilter(0.9).decide(Candidates(collection))
        groups = near_duplicates(collection, 0.9)
    rows = np.concatenate([np.array(tile) for _, tile in collection.image_tiles()])
    is_similar = np.tril(rows.astype(np.float32) @ rows.astype(np.float32).T, -1) >= 0.9
    assert decision.removed[0] == 0
    assert decision.removed.sum() >= 0.5 * is_similar.any(axis=1).sum() > 0
    assert groups


def test_too_many_open_files_are_no_damage(folder, tmp_path):
    small = write_collection(tmp_path / "small", (2, 3))
    collection, held = Collection(small), []
    with few_open_files(20):
        try:
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        except OSError:
            pass
        with pytest.raises(DataError, match=r"Too many open files\); raise the number .*ulimit"):
            collection.shards[0].images()
        with pytest.raises(DataError, match=r"Too many open files\); raise the number .*ulimit"):
            collection.shards[0].table(["key"])
        with pytest.raises(DataError, match="Too many open files"):
            missing_shards(collection.info, small, range(2))
        for descriptor in held:
            os.close(descriptor)
    assert missing_shards(read_info(small), small, range(2)) == []
