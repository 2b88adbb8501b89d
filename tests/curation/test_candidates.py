"""Candidates: the samples that are left, read shard by shard."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from clipkit.collection import Collection
from clipkit.curation.candidates import Candidates
from clipkit.curation.filters import (
    CaptionWordsFilter,
    ClassBalanceFilter,
    FileDuplicateFilter,
    ImageDuplicateFilter,
    MinSideFilter,
)
from clipkit.errors import DataError
from tests.helpers.collections import unit_rows
from tests.helpers.given_collections import collection_of


@pytest.fixture
def collection(tmp_path) -> Collection:
    return collection_of(
        tmp_path / "c", [3, 0, 4, 1], images=unit_rows(8, 4, seed=0), label=[*range(7), None]
    )


@pytest.mark.parametrize("rows", [range(8), [0], [2, 3], [7], [1, 4, 6, 7], []])
def test_only_the_candidates_are_read(collection, rows):
    calls = []
    candidates = Candidates(
        collection, np.array(rows, np.int64), lambda done, total: calls.append((done, total))
    )
    labels = [7 if each == 7 else each for each in rows]
    numbers = candidates.numbers("label")
    assert np.nan_to_num(numbers, nan=7).tolist() == labels
    assert calls[-1:] == ([(len(rows), len(rows))] if rows else [])
    found = np.zeros((len(rows), 4), np.float32)
    for places, images in candidates.embeddings():
        found[places] = images
    np.testing.assert_array_equal(found, collection.images(np.array(rows, np.int64)))


@pytest.mark.parametrize(("column", "values", "kind"), [
    ("captions", ["a", "b"], CaptionWordsFilter(1)),
    ("captions", [1, 2], CaptionWordsFilter(1)),
    ("width_pixels", ["wide", "narrow"], MinSideFilter(3)),
    ("label", ["cat", "dog"], ClassBalanceFilter(3)),
    ("image_sha256", ["x", "y"], FileDuplicateFilter()),
    ("image_signature", [b"short", b"longer"], ImageDuplicateFilter()),
])  # fmt: skip
def test_columns_of_other_types_are_refused(tmp_path, column, values, kind):
    collection = collection_of(tmp_path / "c", [2])
    path = tmp_path / "c" / "00000.parquet"
    table = pa.parquet.read_table(path)
    place = table.column_names.index(column)
    pa.parquet.write_table(table.set_column(place, column, pa.array(values)), path)
    with pytest.raises(DataError, match=f"00000.parquet: column {column}: expected"):
        kind.decide(Candidates(collection))


def test_missing_columns_are_named(tmp_path):
    collection = collection_of(tmp_path / "c", [2])
    path = tmp_path / "c" / "00000.parquet"
    pa.parquet.write_table(pa.parquet.read_table(path).drop_columns(["image_sha256"]), path)
    with pytest.raises(DataError, match="has no column 'image_sha256'"):
        FileDuplicateFilter().decide(Candidates(collection))


def test_missing_embeddings_are_named(collection):
    (collection.folder / "00002.images.f16.npy").unlink()
    with pytest.raises(DataError, match=r"00002.images.f16.npy: cannot be read"):
        list(Candidates(collection).embeddings())
