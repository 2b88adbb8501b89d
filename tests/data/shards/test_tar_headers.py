"""The raw header scan against tarfile's own reader and writers, and webdataset's grouping."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import given, settings
from hypothesis import strategies as st

from clipkit.data.shards.shard_table import scan_shard, split_name
from clipkit.data.shards.tar_headers import TarContents, scan_tar
from clipkit.data.shards.tar_links import Member
from clipkit.errors import ShardError
from tests.helpers.factories import pair, write_shard

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}
LONG = "a-long-folder/" * 9 + "x" * 120


def scan(data: bytes) -> TarContents:
    return scan_tar(lambda offset, length: data[offset : offset + length], len(data), "test.tar")


def build(names: list[str], format: int, **fields: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            info.size = 100 * number
            for field, value in fields.items():
                setattr(info, field, value)
            tar.addfile(info, io.BytesIO(bytes([number % 256]) * info.size))
    return out.getvalue()


def as_tarfile_sees(data: bytes) -> list[tuple[str, int, int]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(m.name, m.offset_data, m.size) for m in tar.getmembers() if m.isreg()]


def named(members: list[Member]) -> list[tuple[str, int, int]]:
    return [(m.name.decode(), m.offset, m.size) for m in members]


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize(
    "names",
    [
        ["a.jpg", "a.txt", "b.jpg"],
        ["folder/sub/a.jpg", "./b.png"],
        ["folder/" * 20 + "name.jpg", "after.jpg"],
        ["zażółć/gęślą.jpg", "日本語.txt"],
    ],
)
def test_agrees_with_tarfile(format: str, names: list[str]) -> None:
    data = build(names, FORMATS[format])
    assert named(scan(data).members) == as_tarfile_sees(data)


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_long_names(format: str) -> None:
    data = build(["short.jpg", f"{LONG}.jpg", f"{LONG}.txt", "end.txt"], FORMATS[format])
    members = named(scan(data).members)
    assert members == as_tarfile_sees(data)
    assert members[1][0] == f"{LONG}.jpg"


def test_pax_attributes_that_do_not_concern_us_are_passed_over() -> None:
    fields = {"mtime": 1234567.891, "uname": "ü" * 40, "pax_headers": {"comment": "x" * 2000}}
    data = build(["a.jpg", "b.jpg"], tarfile.PAX_FORMAT, **fields)
    assert named(scan(data).members) == as_tarfile_sees(data)


def test_a_global_pax_header_is_passed_over() -> None:
    out = io.BytesIO()
    headers = {"comment": "all of it"}
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT, pax_headers=headers) as tar:
        info = tarfile.TarInfo("a.jpg")
        info.size = 3
        tar.addfile(info, io.BytesIO(b"abc"))
    assert named(scan(out.getvalue()).members) == as_tarfile_sees(out.getvalue())


def test_directories_and_devices_are_no_members_and_links_are() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, kind in [
            ("folder", tarfile.DIRTYPE),
            ("a.jpg", tarfile.REGTYPE),
            ("link.jpg", tarfile.SYMTYPE),
            ("hard.jpg", tarfile.LNKTYPE),
            ("fifo", tarfile.FIFOTYPE),
        ]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "a.jpg" if "jpg" in name[1:] else ""
            tar.addfile(info)
    contents = scan(out.getvalue())
    assert [member.name for member in contents.members] == [b"a.jpg", b"link.jpg", b"hard.jpg"]
    assert [entry.name for entry in contents.unresolved] == [b"fifo"]
    assert contents.num_directories == 1


def test_sizes_beyond_eight_gigabytes() -> None:
    """GNU writes them in base 256, PAX as a record; a sparse file stands in for the contents."""
    size = 9 * 2**30
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("big.bin")
        info.size = size
        header = info.tobuf(format=format)
        total = len(header) + size + 1024

        def read_at(offset: int, length: int, header: bytes = header) -> bytes:
            return (header[offset:] + bytes(length))[:length]

        contents = scan_tar(read_at, total, "big.tar")
        assert [(m.offset, m.size) for m in contents.members] == [(len(header), size)]


def test_webdatasets_own_writer(tmp_path: Path) -> None:
    path = tmp_path / "wds.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(5):
            writer.write({"__key__": f"sub/{number:05d}", **pair(number)})
    table = scan_shard(path, str(path), expected_samples=5)
    expected = list(webdataset.WebDataset(str(path), shardshuffle=False))
    assert [table.key(i) for i in range(5)] == [sample["__key__"] for sample in expected]
    data = path.read_bytes()
    for index, sample in enumerate(expected):
        spans = table.members(index)
        assert set(spans) == {name for name in sample if not name.startswith("__")}
        for extension, (offset, size) in spans.items():
            assert data[offset : offset + size] == sample[extension]


name_texts = st.text(st.sampled_from("ab._/J9"), min_size=1, max_size=12)


@given(name_texts)
@settings(max_examples=500)
def test_names_are_split_as_webdataset_splits_them(name: str) -> None:
    found = split_name(name)
    expected = webdataset.tariterators.base_plus_ext(name)
    hidden = name.rpartition("/")[2].startswith(".")
    meta = name.split("/")[0].startswith("__") and name.split("/")[0].endswith("__")
    if hidden or meta or expected[0] is None:
        assert found is None
    else:
        assert found == (expected[0], expected[1].lower())


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_shard(tmp_path / "s.tar", [(f"{i:03d}", pair(i)) for i in range(6)])


def end_of_members(path: Path) -> int:
    with tarfile.open(path) as tar:
        last = tar.getmembers()[-1]
    return last.offset_data + -(-last.size // 512) * 512


def test_a_whole_shard_has_its_end_marker(shard: Path) -> None:
    assert scan(shard.read_bytes()).has_end_marker
    assert len(scan_shard(shard, "s")) == 6


def test_every_cut_is_noticed(shard: Path) -> None:
    """Cut at each block, in its middle, and one byte on: only the padding may go."""
    data = shard.read_bytes()
    end = end_of_members(shard)
    for cut in sorted({c for b in range(512, end + 512, 512) for c in (b - 256, b, b + 1)}):
        shard.write_bytes(data[:cut])
        if cut >= end + 512:
            assert len(scan_shard(shard, "s")) == 6
            continue
        with pytest.raises(ShardError, match=r"truncated|damaged|expected a tar"):
            scan_shard(shard, "s")


def test_a_missing_end_marker_is_forgiven_when_the_count_is_right(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[: end_of_members(shard)])
    assert len(scan_shard(shard, "s", expected_samples=6)) == 6
    with pytest.raises(ShardError, match=r"expected 7 samples.*got 6"):
        scan_shard(shard, "s", expected_samples=7)


def test_any_flipped_byte_of_a_header_is_noticed(shard: Path) -> None:
    data = bytearray(shard.read_bytes())
    with tarfile.open(shard) as tar:
        headers = [member.offset for member in tar.getmembers()]
    for place in (0, 50, 100, 124, 130, 150, 156, 257, 300, 400):
        for header in (headers[0], headers[5]):
            damaged = data.copy()
            damaged[header + place] ^= 0x15
            with pytest.raises(ShardError, match=r"damaged|expected a tar file"):
                scan(bytes(damaged))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b" + bytes(600), "compressed with gzip"),
        (b"BZh9" + bytes(600), "compressed with bzip2"),
        (b"<html>" + b"x" * 600, "expected a tar file, got one that starts with b'<html>"),
        (b"x" * 100, "truncated"),
    ],
)
def test_what_is_no_tar_is_named(content: bytes, message: str) -> None:
    with pytest.raises(ShardError, match=message):
        scan(content)


def test_tars_joined_with_cat_are_noticed(shard: Path) -> None:
    with pytest.raises(ShardError, match="data follows the end marker"):
        scan(shard.read_bytes() * 2)


def test_an_unfinished_copy_full_of_zeros_is_noticed(shard: Path) -> None:
    os.truncate(shard, 3 * 2**20)
    with pytest.raises(ShardError, match="incomplete copy"):
        scan(shard.read_bytes())


@pytest.mark.parametrize("factor", [1, 2, 20, 40, 128, 640, 2048])
def test_the_padding_of_a_blocking_factor_is_complete(shard: Path, factor: int) -> None:
    """As ``tar -b FACTOR`` writes it, whatever the size of the contents."""
    contents = shard.read_bytes()[: end_of_members(shard)]
    for num_blocks in range(3):
        info = tarfile.TarInfo("z.bin")
        info.size = 512 * num_blocks
        data = contents + info.tobuf() + b"z" * info.size + bytes(1024)
        data += bytes(-len(data) % (factor * 512))
        assert scan(data).members[-1].size == info.size


def test_a_copy_that_lacks_its_last_files_is_noticed() -> None:
    """It has its complete length already; its zeros are more than tar pads for that length."""
    info = tarfile.TarInfo("a.jpg")
    info.size = 5000
    data = b"".join([info.tobuf() + b"a" * 5120] * 8) + bytes(1024)
    data += bytes(-len(data) % 10240)
    assert len(data) == 5 * 10240
    assert len(scan(data).members) == 8
    cut = data[: 5 * 5632].ljust(len(data), b"\0")
    with pytest.raises(ShardError, match="23040 bytes of zeros from byte 28160, as an incomplete"):
        scan(cut)


def test_sparse_members_are_refused() -> None:
    info = tarfile.TarInfo("a.jpg")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(ShardError, match="sparse"):
        scan(info.tobuf() + bytes(1024))
