"""Parts of a file: against the bytes of the complete file, after damage, and by two writers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.data.storage.partial import BLOCK_BYTES, PartialFile, split_ranges

SIZE = 5 * BLOCK_BYTES + 100
DATA = np.random.default_rng(0).bytes(SIZE)
SPANS = st.tuples(st.integers(0, SIZE), st.integers(0, SIZE)).map(lambda s: (min(s), max(s)))


def fill(partial: PartialFile, spans) -> int:
    """Write what lacks; returns the number of bytes."""
    ranges = partial.missing(spans)
    for start, end in ranges:
        partial.write(start, DATA[start:end])
    return sum(end - start for start, end in ranges)


@settings(max_examples=50)
@given(st.lists(st.lists(SPANS, max_size=3), max_size=4))
def test_every_span_that_was_filled_can_be_read(tmp_path_factory, fills):
    path = tmp_path_factory.mktemp("p") / "x.blocks"
    partial, blocks = PartialFile(path, SIZE), set()
    for spans in fills:
        spans = [span for span in spans if span[1] > span[0]]
        new = {b for a, e in spans for b in range(a // BLOCK_BYTES, -(-e // BLOCK_BYTES))} - blocks
        sizes = [min((b + 1) * BLOCK_BYTES, SIZE) - b * BLOCK_BYTES for b in new]
        assert fill(partial, spans) == sum(sizes)
        blocks |= new
        again = PartialFile(path, SIZE)
        assert [again.read(*span) for span in spans] == [DATA[a:e] for a, e in spans]
        assert again.missing(spans) == []


def test_absent_and_damaged_blocks_are_not_read(tmp_path):
    path = tmp_path / "x.blocks"
    partial = PartialFile(path, SIZE)
    assert partial.read(0, 10) is None
    fill(partial, [(0, SIZE)])
    with path.open("r+b") as file:
        file.seek(2 * BLOCK_BYTES + 7)
        file.write(b"damage")
    assert partial.read(0, 2 * BLOCK_BYTES) == DATA[: 2 * BLOCK_BYTES]
    assert partial.read(0, SIZE) is None
    assert partial.missing([(0, SIZE)]) == [(2 * BLOCK_BYTES, 3 * BLOCK_BYTES)]
    fill(partial, [(0, SIZE)])
    assert partial.read(0, SIZE) == DATA


def test_a_deleted_file_gets_a_name_again(tmp_path):
    path = tmp_path / "x.blocks"
    partial = PartialFile(path, SIZE)
    fill(partial, [(0, SIZE)])
    partial.open_again()
    assert partial.missing([(0, SIZE)]) == []
    path.unlink()
    assert partial.read(0, SIZE) == DATA
    partial.open_again()
    assert partial.read(0, 10) is None
    fill(partial, [(0, 10)])
    assert PartialFile(path, SIZE).read(0, 10) == partial.read(0, 10) == DATA[:10]


def test_a_torn_file_lacks_its_blocks(tmp_path):
    path = tmp_path / "x.blocks"
    fill(PartialFile(path, SIZE), [(0, SIZE)])
    os.truncate(path, 2 * BLOCK_BYTES)
    assert PartialFile(path, SIZE).missing([(0, SIZE)]) == [(0, SIZE)]


def test_the_file_takes_only_the_space_of_its_blocks(tmp_path):
    path = tmp_path / "x.blocks"
    size = 2**30
    partial = PartialFile(path, size)
    partial.write(2**29, bytes(BLOCK_BYTES))
    status = path.stat()
    if status.st_blocks * 512 > size:
        pytest.skip("a file system without sparse files")
    assert status.st_blocks * 512 < 2**20


def test_ranges_are_split():
    assert split_ranges([(0, 10)], 10) == [(0, 10)]
    assert split_ranges([], 10) == []


def test_the_folder_is_made(tmp_path: Path):
    PartialFile(tmp_path / "a" / "b", 10)
