"""One shard in two spellings is refused, in every way to spell it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from clipkit.data import ShardIndex
from clipkit.data.packing.verify import verify_shards
from clipkit.data.shards.repeats import identity_of, refuse_repeats
from clipkit.data.storage.urls import file_address, parse_address
from clipkit.errors import ShardError
from tests.helpers.factories import write_shards


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_shards(tmp_path / "data", [2, 3])
    (tmp_path / "alias").symlink_to(tmp_path / "data")
    (tmp_path / "one.tar").symlink_to(tmp_path / "data" / "00000.tar")
    os.link(tmp_path / "data" / "00000.tar", tmp_path / "hard.tar")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "spelling",
    [
        "data/00000.tar", "./data/00000.tar", "data/../data//00000.tar", "{folder}/data/00000.tar",
        "file://{folder}/data/00000.tar", "alias/00000.tar", "one.tar", "hard.tar", "data",
        "alias/*.tar", "data/{{00000..00001}}.tar",
    ],
)  # fmt: skip
def test_one_shard_in_two_spellings_is_refused(folder: Path, spelling: str) -> None:
    urls = [str(folder / "data" / "00000.tar"), spelling.format(folder=folder)]
    with pytest.raises(ShardError, match=r"00000\.tar|one\.tar|hard\.tar") as caught:
        ShardIndex.from_urls(urls, write_sidecars=False)
    assert "named twice" in str(caught.value)
    with pytest.raises(ShardError, match="named twice"):
        verify_shards(urls)


def test_a_link_in_the_folder_of_its_shard_is_refused(folder: Path) -> None:
    (folder / "data" / "latest.tar").symlink_to("00001.tar")
    with pytest.raises(ShardError, match=r"latest\.tar: named twice, first as .*00001\.tar"):
        ShardIndex.from_urls(folder / "data")


def test_different_shards_are_not(folder: Path) -> None:
    (folder / "copy.tar").write_bytes((folder / "data" / "00000.tar").read_bytes())
    assert ShardIndex.from_urls(["data", "copy.tar"]).counts.tolist() == [2, 3, 2]


@pytest.mark.parametrize(
    ("first", "second", "same"),
    [
        ("https://Host/a/../b.tar", "HTTPS://host/b.tar", True),
        ("https://host/b.tar?part=1", "https://host/b.tar?part=2", False),
        ("https://host/B.tar", "https://host/b.tar", False),
        ("s3://bucket/a//b.tar", "s3://bucket/a/b.tar", False),
        ("s3://Bucket/b.tar", "s3://bucket/b.tar", False),
        ("http://[broken", "http://[broken", True),
    ],
)
def test_urls(first: str, second: str, same: bool) -> None:
    one, two = parse_address(first), parse_address(second)
    assert (identity_of(one) == identity_of(two)) == same


def test_files_that_are_absent_have_an_identity_too(folder: Path) -> None:
    for name in ("no.tar", "x" * 300 + ".tar", "a\0b.tar"):
        first, second = (file_address(Path(text)) for text in (name, f"./data/../{name}"))
        assert identity_of(first) == identity_of(second)
    many = [file_address(folder / f"{number}.tar") for number in range(100)]
    refuse_repeats(many)
    with pytest.raises(ShardError, match=r"7\.tar: named twice;"):
        refuse_repeats([*many, file_address(folder / "7.tar")])
