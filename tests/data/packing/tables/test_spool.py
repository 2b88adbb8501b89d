"""Rows in a temporary file, and their groups against a dictionary."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from clipkit.data.packing.tables.spool import RowGroups, RowSpool, name_hash


@given(st.lists(st.sampled_from("abcdefg")))
def test_groups_are_those_of_a_dictionary(names):
    expected: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        expected.setdefault(name, []).append(number)
    groups = RowGroups(np.array([name_hash(name) for name in names], dtype=np.uint64))
    assert [groups.rows(number) for number in range(len(groups))] == list(expected.values())


def test_rows_are_read_by_several_threads_as_they_were_written():
    rows = [[n, {"text": "é\ud800" * n, "none": None, "float": n / 3}] for n in range(200)]
    spool = RowSpool()
    for row in rows:
        spool.append(row)
    spool.close_writing()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(spool.read, range(200))) == rows
