"""An index of FAISS: what it finds, how it is stored, and when it is refused."""

import errno
import json

import numpy as np
import pytest

from clipkit.collection import Collection
from clipkit.errors import ConfigError, DataError, MetricError
from clipkit.search import ExactEngine, QueryPart, RowFilter, Searcher
from clipkit.search.index import (
    BuildOptions,
    adding,
    build,
    build_index,
    index_factory,
    open_engine,
)
from clipkit.search.index import engine as index_engine
from clipkit.search.index.factory import _num_codes
from clipkit.search.index.info import INDEX_FILE, INDEX_FOLDER, INFO_NAME, LISTS_FILE
from tests.helpers.collections import unit_rows, write_collection

faiss = pytest.importorskip("faiss")
COUNTS = (200, 120, 250)
WIDTH = 16
FACTORIES = ["IVF8,SQ8", "IVF8,PQ16x4", "IVF8_HNSW8,SQ8", "OPQ8_16,IVF8,SQ8", "HNSW8,Flat", "Flat"]

CASES = [(factory, True) for factory in FACTORIES]
CASES += [(factory, False) for factory in FACTORIES if "PQ" not in factory]
"""Quantizers are trained for seconds, and without a difference between the ways of adding."""


@pytest.fixture
def collection(tmp_path):
    return Collection(write_collection(tmp_path / "collection", counts=COUNTS, width=WIDTH))


def queries_of(count):
    return unit_rows(count, WIDTH, 99).astype(np.float32)


@pytest.mark.parametrize(("factory", "in_blocks"), CASES)
def test_all_lists_give_the_results_of_exact_search(collection, factory, in_blocks, monkeypatch):
    if in_blocks:
        monkeypatch.setattr(adding.add_rows, "__defaults__", (100 * (WIDTH + 8),))
    info = build_index(collection, BuildOptions(factory, num_probes=8))
    has_lists = "IVF" in factory
    assert (collection.folder / INDEX_FOLDER / LISTS_FILE).exists() == (has_lists and in_blocks)
    assert not list(collection.folder.glob("index/block*"))
    assert info.least_recall == 1.0
    assert info.num_probes == (8 if has_lists else 0)
    engine = open_engine(collection)
    assert engine.description.startswith(factory)
    found, exact = (each.search(queries_of(7), 5) for each in (engine, ExactEngine(collection)))
    np.testing.assert_array_equal(found.rows, exact.rows)
    np.testing.assert_array_equal(found.scores, exact.scores)


def test_filters_give_only_rows_that_pass(collection, monkeypatch):
    monkeypatch.setattr(index_engine, "EXACT_CANDIDATES", 0)
    build_index(collection, BuildOptions("IVF8,SQ8", num_probes=8))
    allowed = np.random.default_rng(0).random(sum(COUNTS)) < 0.3
    found, exact = (
        each.search(queries_of(4), 6, allowed)
        for each in (open_engine(collection), ExactEngine(collection))
    )
    np.testing.assert_array_equal(found.rows, exact.rows)
    nothing = open_engine(collection).search(queries_of(1), 6, np.zeros_like(allowed))
    assert nothing.rows.tolist() == [[-1]]


@pytest.mark.parametrize("most_excluded", [0, 100])
def test_rows_that_are_left_out_are_not_found_whoever_leaves_them_out(
    collection, most_excluded, monkeypatch
):
    monkeypatch.setattr(index_engine, "EXACT_CANDIDATES", 0)
    monkeypatch.setattr(index_engine, "_FEW_EXCLUDED", most_excluded)
    build_index(collection, BuildOptions("IVF8,SQ8", num_probes=8))
    rows = np.ones(sum(COUNTS), dtype=np.bool_)
    rows[ExactEngine(collection).search(queries_of(1), 40).rows[0]] = False
    found, exact = (
        each.search(queries_of(1), 30, rows)
        for each in (open_engine(collection), ExactEngine(collection))
    )
    np.testing.assert_array_equal(found.rows, exact.rows)


def test_few_rows_that_pass_are_compared_exactly(collection, monkeypatch):
    build_index(collection, BuildOptions("IVF8,SQ8", num_probes=1))
    engine = open_engine(collection)
    monkeypatch.setattr(engine, "_propose", None)
    found = Searcher(collection.folder, engine=engine).search(
        [QueryPart(row=3)], [RowFilter.parse("width_pixels<70")], num_results=100
    )
    assert len(found.hits) == found.num_candidates == 6 * len(COUNTS) - 1


def test_the_fewest_lists_with_enough_recall_are_searched(collection):
    info = build_index(collection, BuildOptions("IVF16,SQ8"))
    fewer = build_index(collection, BuildOptions("IVF16,SQ8", num_probes=info.num_probes // 2))
    assert info.least_recall >= build.TARGET_RECALL > fewer.least_recall
    assert set(info.recall_at_10) == {"images", "captions"}


@pytest.mark.parametrize(
    ("recalls", "probes"),
    [
        ({1: 0.5, 2: 0.96, 4: 1.0}, 2),
        ({1: 0.5, 2: 0.6, 4: 0.8, 8: 0.898, 16: 0.899, 24: 0.9}, 8),
        ({1: 0.2}, 1),
    ],
)
def test_lists_that_add_nothing_are_not_searched(recalls, probes):
    def measure(number):
        return {"images": recalls[number], "captions": 1.0}

    found, recall = build.fewest_probes(measure, max(recalls))
    assert (found, recall["images"]) == (probes, recalls[probes])


def test_the_measured_recall_is_that_of_sets_of_ten(collection):
    info = build_index(collection, BuildOptions("IVF16,SQ8", num_probes=2))
    engine, exact = open_engine(collection), ExactEngine(collection)
    rng = np.random.default_rng(0)
    rows = np.sort(rng.permutation(sum(COUNTS))[: info.num_queries])
    queries = collection.images(rows).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    shares = []
    for row, near, true in zip(
        rows, engine.search(queries, 11).rows, exact.search(queries, 11).rows, strict=True
    ):
        shares.append(len((set(near) - {row, -1}) & (set(true) - {row})) / 10)
    assert info.recall_at_10["images"] == pytest.approx(np.mean(shares))


def test_two_builds_give_equal_files(collection):
    options = BuildOptions("IVF8_HNSW8,SQ8", num_probes=2)
    folder = collection.folder / INDEX_FOLDER
    contents = []
    for _ in range(2):
        build_index(collection, options)
        contents.append((folder / INDEX_FILE).read_bytes())
    assert contents[0] == contents[1]


def test_an_index_of_another_state_of_the_collection_is_refused(collection, tmp_path):
    build_index(collection, BuildOptions("IVF8,SQ8", num_probes=1))
    write_collection(collection.folder, counts=COUNTS, width=WIDTH, seed=5)
    with pytest.raises(DataError, match="has changed since this index was built"):
        Searcher(collection.folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (INFO_NAME, b"{", "cannot be read"),
        (INFO_NAME, b"[]", "expected format"),
        (INFO_NAME, None, "damaged"),
        (INDEX_FILE, b"", "cannot be read"),
        (INDEX_FILE, b"IxMp" * 100, "cannot be read"),
    ],
)
def test_a_damaged_index_is_refused(collection, name, content, message):
    build_index(collection, BuildOptions("IVF8,SQ8", num_probes=1))
    path = collection.folder / INDEX_FOLDER / name
    if content is None:
        facts = json.loads(path.read_text())
        content = json.dumps(facts | {"num_probes": -1}).encode()
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_engine(collection)


def test_an_index_of_other_vectors_is_refused(collection):
    build_index(collection, BuildOptions("Flat"))
    other = faiss.IndexFlatL2(WIDTH)
    faiss.write_index(other, str(collection.folder / INDEX_FOLDER / INDEX_FILE))
    with pytest.raises(DataError, match="inner products"):
        open_engine(collection)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BuildOptions("nonsense"), "'nonsense': FAISS cannot build it"),
        (BuildOptions("IVF8,PQ5"), "cannot build it for 16 components|cannot be trained"),
        (BuildOptions("IVF1000,SQ8"), "at most one list per row"),
        (BuildOptions("PQ4"), "expected an index with IVF, HNSW or Flat"),
        (BuildOptions("IVF8,SQ8,RFlat"), "outermost level"),
        (BuildOptions("IVF8,SQ8", num_probes=0), "num_probes: expected at least 1"),
    ],
)
def test_bad_options_are_refused_and_leave_nothing(collection, options, message):
    with pytest.raises(ConfigError, match=message):
        build_index(collection, options)
    assert not list(collection.folder.glob("*index*"))
    assert not list(collection.folder.glob(".index.*.tmp"))


def test_a_failed_build_keeps_the_previous_index(collection, monkeypatch):
    build_index(collection, BuildOptions("IVF8,SQ8", num_probes=3))
    monkeypatch.setattr(build, "exact_neighbours", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        build_index(collection, BuildOptions("IVF4,SQ8"))
    assert open_engine(collection).description == "IVF8,SQ8, 3 lists"
    assert not list(collection.folder.glob(".index.*.tmp"))


def test_what_a_killed_build_left_is_removed(collection):
    left = collection.folder / ".index.0123abcd.tmp"
    left.mkdir()
    (left / "block-0").write_bytes(b"half")
    build_index(collection, BuildOptions("Flat"))
    assert not left.exists()


def test_the_previous_index_serves_after_a_kill_between_the_names(collection):
    build_index(collection, BuildOptions("IVF8,SQ8", num_probes=3))
    former = collection.folder / ".index.0123abcd.former"
    (collection.folder / INDEX_FOLDER).rename(former)
    assert open_engine(collection).description == "IVF8,SQ8, 3 lists"
    build_index(collection, BuildOptions("IVF4,SQ8", num_probes=2))
    assert open_engine(collection).description == "IVF4,SQ8, 2 lists"
    assert not former.exists()


def test_a_disk_that_others_fill_is_an_error_and_no_signal(collection, monkeypatch):
    build_index(collection, BuildOptions("IVF8,SQ8", num_probes=3))
    monkeypatch.setattr(adding.add_rows, "__defaults__", (100 * (WIDTH + 8),))
    write = adding._write_list

    def full(sources, number, *rest):
        if number == 5:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(sources, number, *rest)

    monkeypatch.setattr(adding, "_write_list", full)
    with pytest.raises(OSError, match=f"No space left on device: .*{LISTS_FILE}"):
        build_index(collection, BuildOptions("IVF8,SQ8"))
    assert open_engine(collection).description == "IVF8,SQ8, 3 lists"
    assert not list(collection.folder.glob(".index.*.tmp"))


def test_two_builds_at_a_time_are_refused(collection):
    from filelock import FileLock

    with FileLock(collection.folder / ".index.lock"), pytest.raises(ConfigError, match="builds"):
        build_index(collection, BuildOptions("Flat"))


def test_a_full_disk_is_refused_before_the_work(collection, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match="the disk has 0 MB"):
        build_index(collection, BuildOptions("Flat"))


def test_bad_queries_are_refused(collection):
    build_index(collection, BuildOptions("IVF8,SQ8", num_probes=1))
    bad = queries_of(1)
    bad[0, 0] = np.inf
    with pytest.raises(MetricError, match="finite"):
        open_engine(collection).search(bad, 1)


def test_the_factory_string_follows_the_number_of_rows():
    assert [index_factory(rows, 768) for rows in (10**3, 3 * 10**6, 10**7, 10**8)] == [
        "IVF64,SQ8", "IVF4096,SQ8", "IVF8192,SQ8", "IVF32768_HNSW32,PQ96",
    ]  # fmt: skip
    assert [_num_codes(width) for width in (1, 7, 100, 512, 513)] == [1, 1, 10, 64, 57]
