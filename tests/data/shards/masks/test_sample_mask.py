"""Masks of sample ids: of arrays, in files, combined, and compared with data."""

from __future__ import annotations

import json
import shutil
import tracemalloc
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipkit.data import SampleMask, ShardIndex
from clipkit.data.shards.masks import mask_files
from clipkit.errors import DataError
from tests.helpers.factories import write_shards

FILTERS = ("caption is empty", "image below 64 pixels")


@pytest.fixture
def index(tmp_path):
    write_shards(tmp_path / "data", [4, 5, 3])
    return ShardIndex.from_urls(tmp_path / "data")


def mask_of(index, removed=(1, 5, 6), code=1):
    removed_by = np.zeros(index.num_samples, dtype=np.uint8)
    removed_by[list(removed)] = code
    return SampleMask.of(index, removed_by, FILTERS)


def saved(index, tmp_path, **changes):
    """Write a mask by hand, as another program would, with some parts changed."""
    info = {
        "format": "clipkit-mask-1",
        "num_samples": 12,
        "filters": list(FILTERS),
        "index_fingerprint": index.fingerprint,
        "index_digest": index.digest,
    }
    kept = np.packbits([1, 0, 1, 1, 1, 0, 0, 1, 1, 1, 1, 1], bitorder="little")
    arrays = {"kept": kept, "reasons": np.array([1, 2, 1], dtype=np.uint8)}
    for name, value in changes.items():
        if name in arrays:
            arrays[name] = value
        else:
            info[name] = value
    text = np.frombuffer(json.dumps(info).encode(), dtype=np.uint8)
    np.savez(tmp_path / "m.npz", info=text, **arrays)
    return tmp_path / "m.npz"


@pytest.mark.parametrize("seed", range(3))
def test_saved_masks_are_read_back(index, tmp_path, seed):
    removed_by = np.random.default_rng(seed).integers(0, 3, index.num_samples, dtype=np.uint8)
    mask = SampleMask.of(index, removed_by, FILTERS)
    mask.save(tmp_path / "m.npz")
    read = SampleMask.load(tmp_path / "m.npz")
    assert read.kept.tolist() == (removed_by == 0).tolist()
    assert read.removed_by.tolist() == removed_by.tolist()
    assert read.filters == FILTERS
    assert (read.num_kept, read.num_samples) == (int((removed_by == 0).sum()), 12)
    assert read.fingerprint == mask.fingerprint
    assert (read.index_fingerprint, read.index_digest) == (index.fingerprint, index.digest)
    read.check(index)


def test_a_file_written_with_numpy_alone_is_read(index, tmp_path):
    mask = SampleMask.load(saved(index, tmp_path))
    assert mask.removed_by.tolist() == [0, 1, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0]


def test_equal_masks_are_equal_files(index, tmp_path):
    for name in ("a.npz", "b.npz"):
        mask_of(index).save(tmp_path / name)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_fingerprint_is_of_the_kept_samples_and_the_data(index, tmp_path):
    write_shards(tmp_path / "other", [5, 4, 3])
    other = ShardIndex.from_urls(tmp_path / "other")
    first = mask_of(index)
    assert mask_of(index, code=2).fingerprint == first.fingerprint
    assert mask_of(index, removed=(1, 5)).fingerprint != first.fingerprint
    assert mask_of(other).fingerprint != first.fingerprint


def test_combined_masks_keep_what_all_keep(index):
    rng = np.random.default_rng(0)
    codes = [rng.integers(0, 3, 12, dtype=np.uint8) for _ in range(3)]
    combined = SampleMask.combine([SampleMask.of(index, each, FILTERS) for each in codes])
    expected = [
        next((int(c) + 2 * place for place, c in enumerate(column) if c), 0)
        for column in zip(*codes, strict=True)
    ]
    assert combined.removed_by.tolist() == expected
    assert combined.kept.tolist() == [number == 0 for number in expected]
    assert combined.num_kept == expected.count(0)
    assert combined.filters == FILTERS * 3


def test_the_order_of_combined_masks_does_not_change_the_fingerprint(index, tmp_path):
    first, second = mask_of(index, (1,)), mask_of(index, (2, 3))
    both = SampleMask.combine([first, second])
    assert both.fingerprint == SampleMask.combine([second, first]).fingerprint
    both.save(tmp_path / "both.npz")
    assert SampleMask.load(tmp_path / "both.npz").removed_by.tolist() == both.removed_by.tolist()


def test_masks_of_different_data_are_not_combined(index, tmp_path):
    write_shards(tmp_path / "other", [5, 4, 3])
    other = ShardIndex.from_urls(tmp_path / "other")
    with pytest.raises(DataError, match="expected a mask of the same data"):
        SampleMask.combine([mask_of(index), mask_of(other)])


def test_more_filters_than_a_byte_can_number_are_refused(index):
    many = SampleMask.of(index, np.zeros(12, dtype=np.uint8), ["f"] * 200)
    with pytest.raises(DataError, match="at most 255, got 400"):
        SampleMask.combine([many, many])


@pytest.mark.parametrize(
    ("removed_by", "match"),
    [
        (np.zeros(11, dtype=np.uint8), r"expected uint8 \[12\].*got uint8 \[11\]"),
        (np.zeros(12, dtype=bool), r"expected uint8 \[12\].*got bool \[12\]"),
        (np.full(12, 3, dtype=np.uint8), "expected numbers up to 2.*got 3"),
    ],
)
def test_arrays_that_do_not_fit_the_data_are_refused(index, removed_by, match):
    with pytest.raises(DataError, match=match):
        SampleMask.of(index, removed_by, FILTERS)


@pytest.mark.parametrize("text", ["", "a\x1b[31m", "two\nlines", 5, "x" * 1001])
def test_filters_are_printable_texts(index, text):
    with pytest.raises(DataError, match="printable texts"):
        SampleMask.of(index, np.zeros(12, dtype=np.uint8), [text])


def test_a_mask_of_other_shards_is_refused(index, tmp_path):
    write_shards(tmp_path / "other", [4, 5, 4])
    other = ShardIndex.from_urls(tmp_path / "other")
    with pytest.raises(DataError, match=r"expected a mask of these data.*13 samples.*12 samples"):
        mask_of(index).check(other)


def test_a_mask_of_other_samples_in_equal_shards_is_refused(index, tmp_path):
    write_shards(tmp_path / "other", [4, 5, 3], start=100_000)
    other = ShardIndex.from_urls(tmp_path / "other")
    assert other.fingerprint == index.fingerprint
    with pytest.raises(DataError, match="contain other samples or another order"):
        mask_of(index).check(other)


def test_shards_known_by_number_only_are_compared_as_far_as_possible(index, tmp_path, caplog):
    SampleMask.load(saved(index, tmp_path, index_digest="")).check(index)
    assert "known by number only" in caplog.text


def test_the_data_may_be_moved(index, tmp_path):
    mask = mask_of(index)
    shutil.copytree(tmp_path / "data", tmp_path / "moved")
    mask.check(ShardIndex.from_urls(tmp_path / "moved"))


def test_names_must_end_in_npz(index, tmp_path):
    with pytest.raises(DataError, match=r"m\.mask: expected a name ending in \.npz"):
        mask_of(index).save(tmp_path / "m.mask")


def test_a_mask_that_changes_after_it_was_loaded_is_noticed(index, tmp_path):
    path = saved(index, tmp_path)
    mask = SampleMask.load(path)
    mask_of(index, removed=(0, 1, 2)).save(path)
    with pytest.raises(DataError, match="changed since it was read"):
        _ = mask.removed_by


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "clipkit-mask-2"}, "expected format 'clipkit-mask-1', got 'clipkit-mask-2'"),
        ({"num_samples": 10**18}, "samples of one bit each"),
        ({"num_samples": 20}, "expected shape"),
        ({"num_samples": -1}, "at least 1"),
        ({"num_samples": True}, "at least 1"),
        ({"num_samples": 1.5}, "at least 1"),
        ({"num_samples": 9}, "zeros after the last sample"),
        ({"filters": "ab"}, "filters"),
        ({"filters": []}, "filters"),
        ({"filters": ["x"] * 256}, "filters"),
        ({"filters": ["\x1b[2J"]}, "printable"),
        ({"index_fingerprint": None}, "expected texts"),
        ({"kept": np.zeros(2, dtype=np.int8)}, "expected uint8"),
        ({"kept": np.array([None, None])}, "expected uint8"),
        ({"kept": np.zeros((2, 1), dtype=np.uint8)}, "expected shape"),
        ({"kept": np.zeros(3, dtype=np.uint8)}, "expected shape"),
        ({"reasons": np.ones(4, dtype=np.uint8)}, "reasons: expected 3"),
        ({"reasons": np.ones(3, dtype=">u2")}, "expected uint8"),
    ],
)
def test_files_that_contradict_themselves_are_refused(index, tmp_path, changes, match):
    path = saved(index, tmp_path, **changes)
    with pytest.raises(DataError, match=f"m.npz.*{match}"):
        SampleMask.load(path)


@pytest.mark.parametrize("reasons", [[0, 1, 1], [1, 3, 1]])
def test_reasons_that_are_no_filter_are_refused(index, tmp_path, reasons):
    mask = SampleMask.load(saved(index, tmp_path, reasons=np.array(reasons, dtype=np.uint8)))
    with pytest.raises(DataError, match=r"m\.npz: reasons: expected numbers from 1 to 2"):
        _ = mask.removed_by


def test_compressed_bits_are_refused_before_they_are_inflated(index, tmp_path, monkeypatch):
    """A few kilobytes could become gigabytes."""
    path = saved(index, tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    monkeypatch.setattr(mask_files, "_array", lambda *args: pytest.fail("allocated"))
    monkeypatch.setattr(mask_files, "_info", lambda archive: {"num_samples": 12})
    with pytest.raises(DataError, match="without compression"):
        SampleMask.load(path)


def test_reasons_beyond_the_removed_samples_are_never_inflated(index, tmp_path):
    path = saved(index, tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    members["reasons.npy"] += b"\1" * 2**24
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members.items():
            deflated = zipfile.ZIP_DEFLATED if name == "reasons.npy" else zipfile.ZIP_STORED
            archive.writestr(name, data, deflated)
    mask = SampleMask.load(path)
    with pytest.raises(DataError, match="reasons: expected 3 bytes"):
        _ = mask.removed_by


@pytest.mark.parametrize("name", ["info", "reasons"])
def test_long_headers_are_never_inflated(index, tmp_path, name):
    """Version 2.0 of NumPy's format allows headers of 4 GB; NumPy reads them completely."""
    path = saved(index, tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    length = 2**26
    members[f"{name}.npy"] = b"\x93NUMPY\x02\x00" + length.to_bytes(4, "little") + b" " * length
    with zipfile.ZipFile(path, "w") as archive:
        for each, data in members.items():
            deflated = zipfile.ZIP_STORED if each == "kept.npy" else zipfile.ZIP_DEFLATED
            archive.writestr(each, data, deflated)
    tracemalloc.start()
    with pytest.raises(DataError, match=rf"{name}: expected version 1.0"):
        SampleMask.load(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**24


@pytest.mark.parametrize("content", [b"", b"PK", b"{}", b"\x93NUMPY"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "m.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"m\.npz: not a complete mask"):
        SampleMask.load(tmp_path / "m.npz")


def test_the_index_file_of_a_data_set_is_no_mask(tmp_path):
    np.savez(tmp_path / "train.npz", format=np.array("clipkit data set index 1"))
    with pytest.raises(DataError, match=r"train\.npz.*expected arrays info, kept and reasons"):
        SampleMask.load(tmp_path / "train.npz")


def test_missing_files_and_folders_are_refused(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        SampleMask.load(tmp_path / "none.npz")
    with pytest.raises(DataError, match="a folder or device"):
        SampleMask.load(tmp_path)


@given(data=st.data())
def test_damage_anywhere_is_noticed_or_harmless(tmp_path_factory, data):
    """A changed byte gives an error that names the file, or the same mask."""
    folder = tmp_path_factory.mktemp("damage")
    write_shards(folder / "data", [3])
    index = ShardIndex.from_urls(folder / "data")
    mask = SampleMask.of(index, np.array([0, 1, 2], dtype=np.uint8), FILTERS)
    mask.save(folder / "m.npz")
    content = bytearray((folder / "m.npz").read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    content[place] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.sampled_from([None, place]))
    (folder / "m.npz").write_bytes(content[:cut])
    try:
        read = SampleMask.load(folder / "m.npz")
        removed_by = read.removed_by
    except DataError as error:
        named = str(error)
    else:
        assert read.fingerprint == mask.fingerprint
        assert removed_by.tolist() == [0, 1, 2]
        named = "m.npz"
    assert "m.npz" in named
