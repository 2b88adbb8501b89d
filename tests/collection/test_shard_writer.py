"""Files of a shard that are written batch by batch are those that are written at once."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest

from clipkit.collection import ShardRows, ShardWriter, write_shard_files
from clipkit.collection.shard_tables import COLUMNS, ROW_GROUP_ROWS
from tests.helpers.collections import unit_rows

WIDTH = 8


def rows_of(count: int, start: int = 0) -> ShardRows:
    """Samples with 0, 1 or 2 captions and a further column."""
    numbers = range(start, start + count)
    columns: dict[str, Any] = {name: [None] * count for name in COLUMNS}
    columns |= {
        "key": [f"s{number}" for number in numbers],
        "captions": [[f"{number}"] * (number % 3) for number in numbers],
        "json:year": list(numbers),
    }
    num_texts = sum(map(len, columns["captions"]))
    return ShardRows(unit_rows(count, WIDTH, start), unit_rows(num_texts, WIDTH, start), columns)


def write(folder, batches, **options) -> None:
    with ShardWriter(folder, "0", WIDTH, column_types={"json:year": "int64"}, **options) as writer:
        for batch in batches:
            writer.append(batch)


def files(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("sizes", [[7], [1, 2, 4], [1024, 1], [1000, 1000, 1000], [3000, 1500]])
def test_batches_make_the_files_of_numpy(tmp_path, sizes):
    starts = np.cumsum([0, *sizes])[:-1]
    batches = [rows_of(size, int(start)) for size, start in zip(sizes, starts, strict=True)]
    write(tmp_path, batches)
    for kind in ("images", "texts"):
        expected = io.BytesIO()
        np.save(expected, np.concatenate([getattr(batch, kind) for batch in batches]))
        assert (tmp_path / f"0.{kind}.f16.npy").read_bytes() == expected.getvalue()
    with pyarrow.parquet.ParquetFile(tmp_path / "0.parquet") as file:
        groups = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
        table = file.read()
    total = sum(sizes)
    size = ROW_GROUP_ROWS
    assert groups == [size] * (total // size) + [total % size] * (total % size > 0)
    assert table.column("key").to_pylist() == [f"s{number}" for number in range(total)]
    assert table.column("json:year").to_pylist() == list(range(total))
    assert table.schema.field("image_sha256").type.byte_width == 32


def test_at_once_is_the_same(tmp_path):
    for name in ("once", "batch"):
        (tmp_path / name).mkdir()
    write_shard_files(rows_of(9), tmp_path / "once", "0")
    write(tmp_path / "batch", [rows_of(9)])
    assert files(tmp_path / "once") == files(tmp_path / "batch")


def test_an_error_leaves_the_files_that_were_there(tmp_path):
    write(tmp_path, [rows_of(3)])
    before = files(tmp_path)
    with pytest.raises(AttributeError):
        write(tmp_path, [rows_of(5000), None])
    assert files(tmp_path) == before


def test_the_table_takes_its_name_last(tmp_path, monkeypatch):
    names: list[str] = []
    monkeypatch.setattr(
        "pathlib.Path.replace",
        lambda self, target: names.append(Path(target).name) or self.rename(target),
    )
    write(tmp_path, [rows_of(2)])
    assert names == ["0.images.f16.npy", "0.texts.f16.npy", "0.parquet"]


def test_rows_wait_for_one_group_only(tmp_path):
    with ShardWriter(tmp_path, "0", WIDTH, column_types={"json:year": "int64"}) as writer:
        for start in range(0, 20_000, 500):
            writer.append(rows_of(500, start))
            assert sum(map(len, writer._waiting)) < 4096 + 500
