"""Class vectors in .npy members: what NumPy writes is read, hostile files are refused."""

from __future__ import annotations

import io

import numpy as np
import pytest

from clipkit.data.shards.class_vectors import read_class_vector
from clipkit.errors import SampleError


def saved(array, **options):
    file = io.BytesIO()
    np.save(file, array, **options)
    return file.getvalue()


def header(text, version=b"\x01\x00"):
    padded = text.encode() + b"\n"
    return b"\x93NUMPY" + version + len(padded).to_bytes(2, "little") + padded


@pytest.mark.parametrize("dtype", ["int64", "uint8", "bool", "float32", ">i4"])
def test_every_kind_of_number(dtype):
    assert read_class_vector(saved(np.array([0, 1, 0, 1], dtype))) == ([1, 3], 4)
    assert read_class_vector(saved(np.zeros(3, dtype))) == ([], 3)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (saved(np.array([{"a": 1}], dtype=object), allow_pickle=True), "got object of shape"),
        (saved(np.array([0, 2])), "expected a 0 or 1 for each class, got 2"),
        (saved(np.array([0.0, np.nan])), "got nan"),
        (saved(np.array([0, -1])), "got -1"),
        (saved(np.zeros((2, 2))), r"shape \(2, 2\)"),
        (saved(np.array(1)), r"shape \(\)"),
        (saved(np.zeros(0)), r"shape \(0,\)"),
        (saved(np.array(["a"])), "vector of numbers"),
        (saved(np.zeros(3, "complex64")), "complex64"),
        (saved(np.zeros(4))[:-1], "in 31 bytes"),
        (saved(np.zeros(4)) + b"0", "in 33 bytes"),
        (header("{'descr': '<i8', 'fortran_order': False, 'shape': (10000000000000,)}"), "0 bytes"),
        (header("{'descr': '<i8', 'fortran_order': False, 'shape': (-1,)}"), r"\(-1,\)"),
        (header("{'descr': 'O'}"), "expected a .npy file"),
        (header("[" * 2000), "expected a .npy file"),
        (header("x", b"\x09\x00"), "expected a .npy file"),
        (b"", "expected a .npy file"),
        (b"PK\x03\x04", "expected a .npy file"),
    ],
)
def test_hostile_members_are_refused(data, message):
    with pytest.raises(SampleError, match=message):
        read_class_vector(data)
