"""Names of the files of shards: unique, short, and inside the folder."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.collection.embedding.names import shard_names
from clipkit.data.storage.urls import parse_address


def names(*paths: str) -> tuple[str, ...]:
    return shard_names([parse_address(path) for path in paths])


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        (["data/00000.tar", "data/00001.tar"], ["00000", "00001"]),
        (["https://host/a/0.tar?signature=x/y", "s3://b/cc12m-train-0001.tar"],
         ["0", "cc12m-train-0001"]),
        (["a/0.tar", "b/0.tar", "b/1.tar"], ["0-0", "1-0", "1"]),
        (["a/X.tar", "a/x.tar"], ["0-X", "1-x"]),
        (["a/0.tar", "b/0.tar", "c/1-0.tar"], ["0-0", "1-1-0", "2-1-0"]),
        (["a/with space&.tar", "a/.hidden.tar", "a/....tar"], ["with_space_", "hidden", "shard"]),
        (["a/ü.v2.tar", "a/b:c.tar"], ["ü.v2", "b_c"]),
    ],
)  # fmt: skip
def test_examples(paths, expected):
    assert names(*paths) == tuple(expected)


@given(st.lists(st.text(max_size=200), min_size=1, max_size=12))
def test_names_are_unique_short_and_inside_the_folder(stems):
    found = names(*(f"folder/{stem}.tar" for stem in stems))
    assert len({name.lower() for name in found}) == len(stems)
    for name in found:
        assert name
        assert not name.startswith(".")
        assert not set(name) & set('/\\\0:*?"<>|\n')
        assert len(name) < 160
