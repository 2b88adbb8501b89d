import json
import os

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clipkit.collection import Collection, read_info, write_info
from clipkit.collection.info import create_info
from clipkit.errors import DataError
from tests.helpers.collections import unit_rows, write_collection


@pytest.fixture
def folder(tmp_path):
    return write_collection(tmp_path / "collection", counts=(5, 3, 4))


def test_rows_are_those_of_the_shards(folder):
    collection = Collection(folder)
    assert len(collection) == 12
    assert collection.locate(5) == (1, 0)
    whole = np.concatenate([unit_rows(n, 8, seed) for seed, n in enumerate((5, 3, 4))])
    rows = np.array([11, 0, 5, 5])
    assert (collection.images(rows) == whole[rows]).all()
    starts, tiles = zip(*collection.image_tiles(tile_rows=2), strict=True)
    assert starts == (0, 2, 4, 5, 7, 8, 10)
    assert (np.concatenate(tiles) == whole).all()


@pytest.mark.parametrize("count", [1, 64, 65])
def test_single_rows_are_those_of_the_mapped_file_in_each_of_its_states(tmp_path, count):
    files = Collection(write_collection(tmp_path, counts=(100,))).shards[0]
    positions = np.random.default_rng(count).integers(0, 100, count)
    path = tmp_path / "00000.images.f16.npy"
    for seed in (0, 1):
        np.save(path, unit_rows(100, 8, seed))
        for _ in range(3):
            found = files.some("image", positions)
            np.testing.assert_array_equal(found, unit_rows(100, 8, seed)[positions])
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"00000\.images\.f16\.npy: cannot be read"):
        files.some("image", positions)


def test_a_part_of_a_table_is_that_of_the_present_file(folder):
    files = Collection(folder).shards[0]
    path = folder / "00000.parquet"
    for state in range(2):
        assert files.row_group(["key"], 3)[1].column("key")[3].as_py().startswith("again" * state)
        table = pq.read_table(path)
        keys = pa.array([f"again {number}" for number in range(5)])
        pq.write_table(table.set_column(table.column_names.index("key"), "key", keys), path)


def test_columns_keep_the_order_asked_for(folder):
    table = Collection(folder).table(["key", "label"], np.array([11, 0, 5, 5]))
    assert table.column("key").to_pylist() == ["00002-3", "00000-0", "00001-0", "00001-0"]
    assert len(Collection(folder).table(["key"])) == 12
    assert len(Collection(folder).table(["key"], np.array([], dtype=np.int64))) == 0


def test_captions_belong_to_their_sample(folder):
    shard = Collection(folder).shards[1]
    assert shard.text_starts().tolist() == [0, 2, 4, 6]
    assert shard.texts().shape == (6, 8)


def test_info_comes_back(folder, tmp_path):
    info = read_info(folder)
    write_info(info, tmp_path)
    assert read_info(tmp_path) == info
    assert info.num_samples == 12


def test_a_shard_that_is_missing_is_named(folder):
    (folder / "00001.parquet").unlink()
    with pytest.raises(DataError, match=r"1 of 3 shards are not embedded yet, such as 00001"):
        Collection(folder)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "collection.json").unlink(), "got no collection.json"),
        (lambda f: (f / "collection.json").write_text("{"), "cannot be read"),
        (lambda f: (f / "collection.json").write_text("[]"), "expected format"),
        (lambda f: (f / "collection.json").write_text('{"format": 2}'), "got 2"),
        (lambda f: _rename_shard(f, "../../etc/passwd"), "damaged"),
        (lambda f: _rename_shard(f, ".hidden"), "damaged"),
    ],
)
def test_other_folders_are_refused(folder, damage, message):
    damage(folder)
    with pytest.raises(DataError, match=message):
        Collection(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.zeros((4, 8), np.float16), "expected 3 rows, got 4"),
        (np.zeros((3, 7), np.float16), r"got float16 \[3, 7\]"),
        (np.zeros((3, 8), np.float32), "got float32"),
        (np.array([{"a": 1}], dtype=object), "cannot be read"),
    ],
)
def test_other_embeddings_are_refused(folder, content, message):
    np.save(folder / "00001.images.f16.npy", content, allow_pickle=True)
    with pytest.raises(DataError, match=message):
        Collection(folder).images(np.array([5]))


def test_a_file_that_is_replaced_is_checked_again(folder):
    files = Collection(folder).shards[1]
    before = np.array(files.images())
    assert np.array_equal(files.images(), before)
    other = np.asfortranarray(before * 2)
    np.save(folder / "new.npy", other)
    (folder / "new.npy").replace(folder / "00001.images.f16.npy")
    for _ in range(2):
        assert np.array_equal(files.images(), before * 2)
    np.save(folder / "00001.images.f16.npy", np.zeros((4, 8), np.float16))
    with pytest.raises(DataError, match="expected 3 rows, got 4"):
        files.images()
    (folder / "00001.images.f16.npy").unlink()
    with pytest.raises(DataError, match="No such file"):
        files.images()


def test_unknown_columns_and_rows_are_named(folder):
    collection = Collection(folder)
    with pytest.raises(DataError, match=r"has no column 'author'; it has key, captions"):
        collection.table(["author"])
    with pytest.raises(DataError, match="row 12: expected 0 to 11"):
        collection.images(np.array([3, 12]))
    with pytest.raises(DataError, match="row -1: expected 0 to 11"):
        collection.locate(-1)


def _rename_shard(folder, name):
    path = folder / "collection.json"
    content = json.loads(path.read_text())
    content["shards"][0]["name"] = name
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("captions", [{"text": "a"}] * 5),
        ("label", ["dog"] * 5),
        ("image_offset_bytes", ["x"] * 5),
        ("image_sha256", [b"short"] * 5),
    ],
)
def test_columns_of_another_type_are_named(folder, column, values):
    path = folder / "00000.parquet"
    table = pq.read_table(path)
    place = table.column_names.index(column)
    pq.write_table(table.set_column(place, column, pa.array(values)), path)
    files = Collection(folder).shards[0]
    with pytest.raises(DataError, match=rf"00000\.parquet: column {column}: expected .* again"):
        files.table([column])
    with pytest.raises(DataError, match=rf"00000\.parquet: column {column}: expected"):
        files.row_group([column], 0)


def test_text_of_other_bytes_is_refused(folder):
    path = folder / "00000.parquet"
    table = pq.read_table(path)
    keys = pa.array([b"caf\xe9"] * 5).view(pa.string())
    pq.write_table(table.set_column(table.column_names.index("key"), "key", keys), path)
    files = Collection(folder).shards[0]
    with pytest.raises(DataError, match=r"00000\.parquet: cannot be read .* embed the shard again"):
        files.table(["key"])
    with pytest.raises(DataError, match=r"00000\.parquet: cannot be read"):
        files.row_group(["key"], 0)


def test_a_table_that_another_library_wrote_again_is_read(folder):
    path = folder / "00000.parquet"
    table = pq.read_table(path)
    large = pa.array(table.column("captions").to_pylist(), pa.large_list(pa.large_string()))
    pq.write_table(table.set_column(table.column_names.index("captions"), "captions", large), path)
    files = Collection(folder).shards[0]
    assert files.table(["captions"]).schema.field("captions").type == pa.list_(pa.string())
    assert files.text_starts().tolist() == [0, 2, 4, 6, 8, 10]


def test_only_parts_with_the_rows_are_decoded(tmp_path, monkeypatch):
    folder = write_collection(tmp_path, counts=(0, 50, 20))
    for name in ("00001", "00002"):
        path = folder / f"{name}.parquet"
        pq.write_table(pq.read_table(path), path, row_group_size=7)
    collection = Collection(folder)
    whole = collection.table(["captions", "key"]).to_pydict()
    read, parts = pq.ParquetFile.read_row_groups, []

    def spied(self, groups, *args, **kwargs):
        parts.extend(groups)
        return read(self, groups, *args, **kwargs)

    monkeypatch.setattr(pq.ParquetFile, "read_row_groups", spied)
    monkeypatch.setattr(pq.ParquetFile, "read", None)
    rows = np.array([49, 14, 50, 15, 14, 69, 48])
    table = collection.table(["captions", "key"], rows)
    assert table.to_pydict() == {name: [whole[name][row] for row in rows] for name in whole}
    assert parts == [2, 6, 7, 0, 2]
    assert collection.table(["key"], np.array([], dtype=np.int64)).to_pydict() == {"key": []}
    with pytest.raises(DataError, match="has no column 'author'"):
        collection.table(["author"], np.array([], dtype=np.int64))


def test_no_folder_is_left_beside_the_record(tmp_path, monkeypatch):
    """What a kill leaves is a file, which the next process removes after a day."""
    info = read_info(write_collection(tmp_path / "first"))
    folder = tmp_path / "second"
    folder.mkdir()
    seen = []

    def link(*_):
        seen.extend(path for path in folder.iterdir() if path.is_file())
        assert len(seen) == len(list(folder.iterdir()))
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "link", link)
    with pytest.raises(KeyboardInterrupt):
        create_info(info, folder)
    assert seen
    for path in seen:
        assert path.match(".*.tmp")
