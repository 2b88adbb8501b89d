"""NumPy files as members: those that numpy reads, and no others."""

from __future__ import annotations

import io

import numpy as np
import pytest

from clipkit.data import read_array
from clipkit.errors import SampleError
from tests.helpers.series import npy


@pytest.mark.parametrize(
    "values",
    [
        np.arange(6).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.array(3.5),
        np.zeros((0, 4), np.float16),
        np.array([1, 2], ">i4"),
        np.array([True, False]),
    ],
)
def test_reads_what_numpy_reads(values):
    got = read_array(npy(values))
    np.testing.assert_array_equal(got, values)
    assert got.dtype == values.dtype


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    body = text.encode().ljust(117) + b"\n"
    return b"\x93NUMPY" + version + len(body).to_bytes(2, "little") + body


def pickled() -> bytes:
    out = io.BytesIO()
    np.save(out, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    return out.getvalue()


def row(shape: str, dtype: str = "<f4") -> bytes:
    return header(f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}}}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no NumPy file"),
        (b"RIFF....WAVE", "no NumPy file"),
        (npy(np.arange(9))[:-1], "expected 72 bytes of int64, got 71"),
        (npy(np.arange(9)) + b"0", "expected 72 bytes of int64, got 73"),
        (row("(1000000000000, 1000000)"), "expected 4000000000000000000 bytes of float32, got 0"),
        (row("(-1, 4)"), "no NumPy file: shape"),
        (row("(-2, -2)") + bytes(16), "no NumPy file: shape"),
        (row("()", "|O"), "no NumPy file of numbers"),
        (row("(1,)", "<U4") + bytes(16), "no NumPy file of numbers"),
        (row("(1,)", "<c8") + bytes(8), "no NumPy file of numbers"),
        (header("__import__('os').getcwd()"), "no NumPy file"),
        (header("{'descr': '<f4'}"), "no NumPy file"),
        (header("[" * 90), "no NumPy file"),
        (b"\x93NUMPY\x09\x00" + bytes(200), "no NumPy file: version"),
        (row("(True,)") + bytes(4), "no NumPy file: shape"),
        (pickled(), "no NumPy file of numbers"),
    ],
)
def test_refuses_anything_else(data, message):
    with pytest.raises(SampleError, match=message):
        read_array(data)
