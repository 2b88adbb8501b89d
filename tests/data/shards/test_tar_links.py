"""Links in tars: the members that they name are read, and what they do not name is a fault."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from clipkit.data import ShardIndex, ShardReader
from clipkit.data.packing.verify import verify_shards
from clipkit.data.shards.reader import neighbours
from clipkit.data.shards.shard_table import name_as_text, table_from_members
from clipkit.data.shards.tar_links import Member
from clipkit.errors import ShardError
from tests.helpers.factories import image_bytes, pair

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def add(
    tar: tarfile.TarFile, name: str, data: bytes = b"", kind: bytes = b"0", to: str = ""
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, to, len(data)
    tar.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("format", FORMATS)
def test_links_are_read_as_what_they_name(format: str, tmp_path: Path) -> None:
    """As tar --hard-links and Python's tarfile write a file that was added twice."""
    name = "x" * (80 if format == "ustar" else 150)
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=FORMATS[format]) as tar:
        add(tar, f"s/{name}.jpg", image_bytes("red"))
        add(tar, f"s/{name}.txt", b"a red square")
        add(tar, "s/b.jpg", kind=tarfile.LNKTYPE, to=f"s/{name}.jpg")
        add(tar, "s/b.txt", kind=tarfile.SYMTYPE, to=f"{name}.txt")
        add(tar, "./s/c.jpg", kind=tarfile.LNKTYPE, to="s/b.jpg")
        add(tar, "./s/c.txt", kind=tarfile.SYMTYPE, to="../s/b.txt")
        add(tar, "latest", kind=tarfile.SYMTYPE, to="s")
    reader = ShardReader(ShardIndex.from_urls(path))
    samples = [reader.read(number) for number in range(3)]
    assert [sample.key for sample in samples] == [f"s/{name}", "s/b", "./s/c"]
    assert samples[0].members == samples[1].members == samples[2].members
    report = verify_shards([str(path)])
    assert (report.num_samples, report.faults) == (3, ())


@pytest.mark.parametrize(
    ("kind", "target", "reason"),
    [
        (tarfile.LNKTYPE, "gone.txt", "a hard link to 'gone.txt', which is no file of this tar"),
        (tarfile.SYMTYPE, "/etc/passwd", "a symbolic link to '/etc/passwd'"),
        (tarfile.SYMTYPE, "../../a.txt", "a symbolic link to '../../a.txt'"),
        (tarfile.SYMTYPE, "b.txt", "a link that leads in a circle"),
        (tarfile.FIFOTYPE, "", "a device or a pipe"),
        (tarfile.CHRTYPE, "", "a device or a pipe"),
    ],
)
def test_an_entry_without_contents_is_a_named_fault(
    kind: bytes, target: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "a.jpg", image_bytes())
        add(tar, "a.txt", b"red")
        add(tar, "b.jpg", image_bytes())
        add(tar, "b.txt", kind=kind, to=target)
    with pytest.raises(ShardError) as caught:
        ShardIndex.from_urls(path)
    assert "'b.txt': expected a file" in str(caught.value)
    assert reason in str(caught.value)
    assert len(verify_shards([str(path)]).faults) == 1


def test_a_far_link_does_not_read_what_lies_between() -> None:
    spans = {"jpg": (10**9, 50), "txt": (10**9 + 512, 5), "cls": (512, 1)}
    assert neighbours(spans) == [{"cls": (512, 1)}, {"jpg": (10**9, 50), "txt": (10**9 + 512, 5)}]
    assert neighbours({}) == []


def test_members_keep_the_order_of_the_tar(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as tar:
        add(tar, "a.txt", b"one")
        add(tar, "b.jpg", b"2")
        add(tar, "b.txt", kind=tarfile.LNKTYPE, to="a.txt")
    members = ShardReader(ShardIndex.from_urls(path)).read(1).members
    assert list(members.items()) == [("jpg", b"2"), ("txt", b"one")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"caf\xe9", "caf\\xe9"),
        ("日本語\u00a0".encode(), "日本語\u00a0"),
        (b"a\nb\x00", "a\\x0ab\\x00"),
        (b"plain 1", "plain 1"),
    ],
)
def test_names_become_text_that_can_be_printed(name: bytes, text: str) -> None:
    assert name_as_text(name) == text


def test_names_that_are_not_utf8_are_samples_like_others(tmp_path: Path) -> None:
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="latin-1") as tar:
        for name in ("café.jpg", "café.txt", "b.jpé", "b.txt"):
            add(tar, name, pair(0)["jpg" if "jp" in name else "txt"])
    index = ShardIndex.from_urls(path)
    samples = [ShardReader(index).read(number) for number in range(2)]
    assert [sample.key for sample in samples] == ["caf\\xe9", "b"]
    assert samples[0].members == {"jpg": pair(0)["jpg"], "txt": pair(0)["txt"]}
    # An extension is text as well: the message of a fault can be printed everywhere.
    (fault,) = verify_shards([str(path)]).faults
    assert str(fault).encode().endswith(b"no image or sound, only jp\\xe9, txt")


def test_too_many_extensions_are_named() -> None:
    members = [Member(b"photo.%d.jpg" % number, 0, 0) for number in range(2**16 + 1)]
    assert len(table_from_members(members[:-1], "s.tar")) == 1
    with pytest.raises(ShardError, match=r"65537 different extensions, such as \.65534\.jpg"):
        table_from_members(members, "s.tar")
