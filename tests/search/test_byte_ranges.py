"""Parts of sounds that players ask for."""

from __future__ import annotations

import pytest

from clipkit.search.serving.byte_ranges import byte_range


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("bytes=0-0", range(0, 1)),
        ("bytes=0-", range(0, 10)),
        ("bytes=3-5", range(3, 6)),
        ("BYTES = 3-5 ", range(3, 6)),
        ("bytes=3-999999999999999999999999", range(3, 10)),
        ("bytes=-4", range(6, 10)),
        ("bytes=-40", range(0, 10)),
        ("bytes=10-", range(10, 10)),
        ("bytes=10-12", range(10, 10)),
        ("bytes=-0", range(10, 10)),
        (None, None),
        ("", None),
        ("bytes=-", None),
        ("bytes=5-3", None),
        ("bytes=0-1,3-4", None),
        ("bytes=a-b", None),
        ("bytes=1-\u0665", None),
        ("bytes=--4", None),
        ("seconds=0-1", None),
        (f"bytes=0-{'9' * 5000}", None),
    ],
)
def test_the_part_of_ten_bytes(header, expected):
    assert byte_range(header, 10) == expected


def test_all_ranges_agree_with_their_definition():
    """RFC 9110, 14.1.2, written out over all positions."""
    for first in range(7):
        for last in range(first, 9):
            wanted = [at for at in range(5) if first <= at <= last]
            assert list(byte_range(f"bytes={first}-{last}", 5) or ()) == wanted
    for length in range(8):
        assert list(byte_range(f"bytes=-{length}", 5) or ()) == list(range(5))[-length or 5 :]
