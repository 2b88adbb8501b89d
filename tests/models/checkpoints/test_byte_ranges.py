"""Near ranges of bytes are read from a store as one."""

from __future__ import annotations

from itertools import pairwise

import fsspec
from hypothesis import given
from hypothesis import strategies as st

from clipkit.models.files.byte_ranges import cut_ranges, merge_ranges
from clipkit.models.files.folders import Folder

DATA = bytes(range(200))
RANGES = st.lists(st.tuples(st.integers(0, 180), st.integers(0, 20)), max_size=12)


@given(RANGES, st.integers(0, 30), st.integers(0, 100))
def test_every_range_has_its_bytes(spans, max_gap, max_bytes):
    ranges = [(start, start + length) for start, length in spans]
    merged = merge_ranges(ranges, max_gap, max_bytes)
    read = [DATA[start:end] for start, end in merged]
    assert cut_ranges(ranges, merged, read) == [DATA[start:end] for start, end in ranges]
    for (first, last), (start, end) in pairwise(merged):
        assert last <= start
        assert start > last + max_gap or end - first > max_bytes


def test_a_store_is_asked_once_for_what_is_near(monkeypatch):
    system = fsspec.filesystem("memory")
    system.pipe_file("/near/part", DATA)
    asked = []
    real = type(system).cat_ranges

    def cat_ranges(store, paths, starts, ends, **options):
        asked.append(len(paths))
        return real(store, paths, starts, ends, **options)

    monkeypatch.setattr(type(system), "cat_ranges", cat_ranges)
    ranges = [(150, 160), (0, 8), (8, 90), (3, 3)]
    read = Folder("memory://near").read_ranges("part", ranges)
    assert read == [DATA[start:end] for start, end in ranges]
    assert asked == [1]
    assert Folder("memory://near").read_ranges("part", []) == []
