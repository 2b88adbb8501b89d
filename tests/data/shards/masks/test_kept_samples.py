"""Numbers of kept samples and their ids, against NumPy on the unpacked bits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.data.shards.masks.kept_samples import AllSamples, JoinedSamples, KeptBits, num_ones

# Runs of kept and removed samples: shorter and longer than a byte (8) and a block (2048).
runs = st.lists(st.integers(0, 5000) | st.integers(0, 20), min_size=1, max_size=20)


def bits_of(kept: np.ndarray) -> KeptBits:
    return KeptBits(np.packbits(kept, bitorder="little"), len(kept))


def check(samples, kept: np.ndarray) -> None:
    """Compare with the positions of the ones."""
    ids = np.flatnonzero(kept)
    assert (samples.num_samples, samples.num_kept) == (len(kept), len(ids))
    np.testing.assert_array_equal(samples.ids(np.arange(len(ids))), ids)
    before = np.concatenate([[0], np.cumsum(kept)])
    np.testing.assert_array_equal(samples.num_before(np.arange(len(kept) + 1)), before)


@given(runs, st.booleans())
@settings(max_examples=60, deadline=None)
def test_runs_of_any_length(lengths: list[int], first: bool) -> None:
    kept = np.repeat(np.arange(len(lengths)) % 2 == first, lengths)
    check(bits_of(kept), kept)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.999, 1.0])
@pytest.mark.parametrize("count", [1, 7, 8, 2047, 2048, 2049, 4096, 30_000])
def test_random_masks(share: float, count: int) -> None:
    kept = np.random.default_rng(count).random(count) < share
    check(bits_of(kept), kept)


def test_numbers_in_any_order_and_repeated():
    kept = np.random.default_rng(0).random(50_000) < 0.2
    ids = np.flatnonzero(kept)
    numbers = np.random.default_rng(1).integers(0, len(ids), 20_000)
    np.testing.assert_array_equal(bits_of(kept).ids(numbers), ids[numbers])


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=6), st.data())
@settings(max_examples=50, deadline=None)
def test_joined_data_sets(parts: list[tuple[int, bool]], data: st.DataObject) -> None:
    """Parts that keep all, none or some samples."""
    kept = [
        np.array(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
        if is_masked
        else np.ones(n, dtype=bool)
        for n, is_masked in parts
    ]
    samples = [
        bits_of(each) if is_masked else AllSamples(n)
        for each, (n, is_masked) in zip(kept, parts, strict=True)
    ]
    check(JoinedSamples(samples), np.concatenate(kept))


def test_ones_are_counted_over_tiles():
    bits = np.random.default_rng(0).integers(0, 256, 3_000_000, dtype=np.uint8)
    assert num_ones(bits) == int(np.unpackbits(bits).sum())


def test_no_table_of_all_ids_is_made():
    """10 million samples: 1.25 MB of bits, and tables of 8 bytes per 2,048 samples."""
    bits = np.full(1_250_000, 0b01010101, dtype=np.uint8)
    kept = KeptBits(bits, 10_000_000)
    own = [value for value in vars(kept).values() if isinstance(value, np.ndarray)]
    assert sum(each.nbytes for each in own if each.base is not bits) < 50_000
    assert kept.ids(np.array([4_999_999])).tolist() == [9_999_998]
