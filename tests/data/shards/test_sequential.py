"""Samples read from front to back against the reader of an index, and against damage."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from random import Random

import pytest
import webdataset

from clipkit.data import RawSample, ShardIndex, ShardReader
from clipkit.data.shards import sequential
from clipkit.data.shards.sequential import read_samples
from clipkit.errors import ShardError
from tests.helpers.factories import pair, write_shard

NAMES = [
    "a/0001.jpg", "a/0001.TXT", "a/._0001.jpg", "__meta__", "0002.seg.png", "0002.txt", "dir/",
    "caf\udce9.txt", "n" * 180 + ".jpg", "n" * 180 + ".txt", "z.txt",
]  # fmt: skip


def tar_of(names: Sequence[str], format: int) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as tar:
        for number, name in enumerate(names):
            info = tarfile.TarInfo(name)
            data = bytes([number]) * (300 * number)
            if name.endswith("/"):
                info.type = tarfile.DIRTYPE
                tar.addfile(info)
                continue
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def by_index(path: Path) -> list[RawSample]:
    index = ShardIndex.from_urls(path, write_sidecars=False)
    reader = ShardReader(index)
    return [reader.read(number) for number in range(index.num_samples)]


def in_order(data: bytes, url: str = "some.tar", expected: int | None = None) -> list[RawSample]:
    return list(read_samples(io.BytesIO(data), url, expected))


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("shard") / "00000.tar"
    return write_shard(path, [(f"{number:04d}", pair(number)) for number in range(6)]).read_bytes()


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_samples_are_those_of_an_index(tmp_path: Path, format: int) -> None:
    names = [name for name in NAMES if len(name) < 100 or format != tarfile.USTAR_FORMAT]
    path = tmp_path / "00000.tar"
    path.write_bytes(tar_of(names, format))
    expected = by_index(path)
    assert in_order(path.read_bytes(), str(path)) == expected
    assert {"caf\\xe9", "a/0001"} <= {sample.key for sample in expected}


def test_what_webdataset_writes(tmp_path: Path) -> None:
    path = tmp_path / "00000.tar"
    with webdataset.TarWriter(str(path)) as writer:
        for number in range(5):
            writer.write({"__key__": f"k{number}", **pair(number)})
    assert in_order(path.read_bytes(), str(path)) == by_index(path)


def test_a_tar_that_ends_early_is_named_wherever_it_is_cut(shard: bytes) -> None:
    samples = in_order(shard)
    end = shard.rstrip(b"\0")
    for cut in range(0, len(end), 509):
        seen: list[RawSample] = []
        with pytest.raises(ShardError, match=r"^some\.tar: (truncated|empty)"):
            seen.extend(read_samples(io.BytesIO(shard[:cut]), "some.tar"))
        assert seen == samples[: len(seen)]


def flipped(shard: bytes) -> bytes:
    at = shard.index(b"0003.")
    return shard[:at] + b"X" + shard[at + 1 :]


SILENT_DAMAGE = {
    "flipped byte in a header": (flipped, "damaged header"),
    "cut between members": (lambda shard: shard[: shard.index(b"0003.")], "truncated"),
    "cut inside a header": (lambda shard: shard[: shard.index(b"0003.") + 99], "truncated"),
    "zeros at the end": (
        lambda shard: shard[: shard.index(b"0003.")].ljust(21 * 10240, b"\0"), "zeros",
    ),
    "joined with cat": (lambda shard: shard + shard, "data follows the end marker"),
}  # fmt: skip


@pytest.mark.parametrize("kind", SILENT_DAMAGE)
def test_damage_that_webdataset_s_own_reader_does_not_report(kind: str, shard: bytes) -> None:
    """Why clipkit reads the tar: webdataset's loop ends without an error."""
    damage, message = SILENT_DAMAGE[kind]
    data = damage(shard)
    files = webdataset.tariterators.tar_file_expander(
        [{"url": "a.tar", "stream": io.BytesIO(data)}]
    )
    num_samples = len(list(webdataset.tariterators.group_by_keys(files)))
    assert num_samples == (6 if kind == "joined with cat" else 3)
    with pytest.raises(ShardError, match=message):
        in_order(data)


def test_without_an_end_marker_only_a_right_count_helps(shard: bytes) -> None:
    cut = shard[: -(-len(shard.rstrip(b"\0")) // 512) * 512]
    with pytest.raises(ShardError, match="end marker of a tar is missing"):
        in_order(cut)
    assert len(in_order(cut, expected=6)) == 6


def test_another_number_of_samples_is_an_error(shard: bytes) -> None:
    with pytest.raises(ShardError, match=r"some\.tar: expected 7 samples.*got 6"):
        in_order(shard, expected=7)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.jpg", "b.jpg", "a.txt"], "duplicate key 'a'"),
        (["a.jpg", "a.JPG"], r"duplicate member a\.jpg"),
        (["readme"], "empty shard: .* 1 other files"),
    ],
)
def test_what_an_index_refuses_is_refused(names: list[str], message: str) -> None:
    with pytest.raises(ShardError, match=message):
        in_order(tar_of(names, tarfile.PAX_FORMAT))


def test_a_link_is_not_left_out() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("a.txt"), io.BytesIO())
        link = tarfile.TarInfo("b.txt")
        link.type, link.linkname = tarfile.LNKTYPE, "a.txt"
        tar.addfile(link)
    with pytest.raises(ShardError, match=r"'b\.txt': expected a file, got a link"):
        in_order(out.getvalue())


def test_compressed_and_joined_tars_are_named(shard: bytes) -> None:
    with pytest.raises(ShardError, match="compressed with gzip"):
        in_order(b"\x1f\x8b" + bytes(1000))
    with pytest.raises(ShardError, match="data follows the end marker"):
        in_order(shard + shard)


def test_a_header_that_names_an_impossible_size(shard: bytes) -> None:
    header = bytearray(shard[:512])
    header[124:136] = b"\x80" + (2**62).to_bytes(11, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(ShardError, match=r"truncated: the file ends at byte .* inside '0000\.jpg'"):
        in_order(bytes(header) + shard[512:])


def test_random_damage_is_seen_where_a_scan_sees_it(shard: bytes, tmp_path: Path) -> None:
    """Flipped bits, lost and foreign blocks, cuts: the same samples, or an error from both."""
    rng, num_errors = Random(5), 0
    for number in range(300):
        data = bytearray(shard)
        for _ in range(rng.randint(0, 2)):
            at = rng.randrange(0, len(data) - 512, 512)
            kind = rng.randrange(4)
            if kind == 0:
                data[at + rng.randrange(512)] ^= 1 << rng.randrange(8)
            else:
                foreign = [b"", bytes(512), rng.randbytes(512)][kind - 1]
                data[at : at + rng.choice([0, 512])] = foreign
        if rng.random() < 0.2:
            del data[rng.randrange(1, len(data)) :]
        path = tmp_path / f"{number}.tar"
        path.write_bytes(data)
        try:
            expected: list[RawSample] | None = by_index(path)
        except ShardError:
            expected = None
        if expected is None:
            num_errors += 1
            with pytest.raises(ShardError, match=f"{number}\\.tar"):
                in_order(bytes(data), str(path))
        else:
            assert in_order(bytes(data), str(path)) == expected
    assert 50 < num_errors < 250


def test_a_large_member_is_complete(monkeypatch: pytest.MonkeyPatch, shard: bytes) -> None:
    expected = in_order(shard)
    monkeypatch.setattr(sequential, "_PIECE_BYTES", 100)
    assert in_order(shard) == expected
