"""Fields of the samples as columns: one type for all shards."""

from __future__ import annotations

import json

import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.collection import Collection, read_info
from clipkit.collection.embedding.columns import Misfit, as_type, type_of
from clipkit.data import FaultOptions
from clipkit.errors import ConfigError
from tests.helpers.embedding import embed, plan_of, rows, write_fields

FIELD = "json:x"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


def column(tmp_path, *shards: list[object]) -> tuple[str, list[object]]:
    """Type and values of the column, for the values of a field in some shards."""
    for number, values in enumerate(shards):
        texts = [json.dumps({} if value is None else {"x": value}) for value in values]
        write_fields(tmp_path / "set" / f"{number}.tar", texts)
    embed(tmp_path / "set", tmp_path / "out", columns=(FIELD,))
    kinds = {
        str(pyarrow.parquet.read_schema(path).field(FIELD).type)
        for path in (tmp_path / "out").glob("*.parquet")
    }
    (kind,) = kinds
    assert read_info(tmp_path / "out").column_types == {FIELD: kind}
    Collection(tmp_path / "out").table([FIELD])  # all shards have one schema
    return kind, [row[FIELD] for row in rows(tmp_path / "out")]


@pytest.mark.parametrize(
    ("shards", "kind", "expected"),
    [
        ([["a", None, "ü"]], "string", ["a", None, "ü"]),
        ([[1, None], [2]], "int64", [1, None, 2]),
        ([[1], [2.5]], "double", [1.0, 2.5]),
        ([[None], [3]], "int64", [None, 3]),
        ([[True], [False, None]], "bool", [True, False, None]),
        ([[None, None]], "string", [None, None]),
        ([[1, "a"]], "string", ["1", "a"]),
        ([[["a", "b"], {"c": 1}]], "string", ['["a", "b"]', '{"c": 1}']),
        ([[2**70, 1]], "string", [str(2**70), "1"]),
        ([[True, 1]], "string", ["true", "1"]),
    ],
)
def test_numbers_stay_numbers_and_texts_texts(tmp_path, shards, kind, expected):
    assert column(tmp_path, *shards) == (kind, expected)


def test_a_value_that_does_not_fit_is_null_and_counted(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("clipkit.collection.embedding.columns._NUM_EXAMINED", 2)
    kind, values = column(tmp_path, [1, "many", 2.5, 2.0, 3])  # the first and the last are examined
    assert (kind, values) == ("int64", [1, None, None, 2, 3])
    assert "not of the type of their column are null: 2 of json:x" in caplog.text


def test_texts_that_are_no_unicode_are_bad_samples(tmp_path):
    write_fields(tmp_path / "set" / "0.tar", ['{"x": "a"}', '{"x": "\\ud800"}'])
    report = embed(tmp_path / "set", tmp_path / "out", columns=(FIELD,), faults=FaultOptions(0.5))
    assert report.total("num_bad") == 1
    assert "surrogates not allowed" in str(rows(tmp_path / "out")[1]["error"])


@pytest.mark.parametrize("columns", [("key",), ("label",), ("json:a", "json:a"), ("",)])
def test_names_of_other_columns_are_refused(tmp_path, columns):
    with pytest.raises(ConfigError, match="columns: expected different fields"):
        plan_of(tmp_path, tmp_path, columns=columns)


@given(st.lists(JSON, max_size=5))
def test_values_that_decided_the_type_fit_it(values):
    kind = type_of(values)
    for value in values:
        try:
            stored = as_type(value, kind)
        except UnicodeEncodeError:
            continue
        python = {"string": str, "int64": int, "double": float, "bool": bool}[kind]
        assert stored is None or type(stored) is python
        assert (stored is None) == (value is None)


@pytest.mark.parametrize(
    ("value", "kind"), [("3", "int64"), (2**63, "int64"), (1.5, "int64"), (True, "int64"),
                        ("x", "double"), (1, "bool"), ([], "double"), (2**64, "double")],
)  # fmt: skip
def test_misfits(value, kind):
    with pytest.raises(Misfit, match=f"expected {kind}"):
        as_type(value, kind)


@pytest.mark.parametrize("kind", ["double", "int64", "string", "bool"])
@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_that_are_none_are_missing(kind, text):
    assert as_type(json.loads(text), kind) is None
