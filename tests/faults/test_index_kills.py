"""kill -9 at any time of `clipkit search build`: the index is the previous one or the new one."""

import time

import numpy as np
import pytest

from clipkit.collection import Collection
from clipkit.search import ExactEngine
from clipkit.search.index import BuildOptions, build_index, open_engine
from tests.helpers.collections import unit_rows, write_collection
from tests.helpers.commands import Command

pytest.importorskip("faiss")
WIDTH = 64
NUM_KILLS = 8


def start(folder, factory):
    words = ["search", "build", str(folder), "--factory", factory]
    return Command(words, folder.parent / "build.log")


def test_a_killed_build_leaves_an_index_that_works(tmp_path):
    folder = write_collection(tmp_path / "c", counts=(250,) * 40, width=WIDTH, captions_per_image=0)
    collection = Collection(folder)
    build_index(collection, BuildOptions("IVF8,SQ8", num_probes=8))
    process = start(folder, "IVF32,SQ8")
    started = time.monotonic()
    process.end()
    complete = time.monotonic() - started
    queries = unit_rows(3, WIDTH, 9).astype(np.float32)
    exact = ExactEngine(collection).search(queries, 5)
    for delay in np.linspace(0, complete, NUM_KILLS):
        process = start(folder, "IVF32,SQ8")
        time.sleep(delay)
        process.kill()
        found = open_engine(Collection(folder)).search(queries, 5)
        assert (found.scores[:, 0] <= exact.scores[:, 0]).all()
    start(folder, "IVF16,SQ8").end()
    assert open_engine(collection).description.startswith("IVF16,SQ8")
    assert not list(folder.glob(".index.*.tmp"))
    assert not list(folder.glob(".index.*.former"))
