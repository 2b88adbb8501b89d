"""The index: what users write, what lies on disk, and every way it can be broken."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

from clipkit import atomic_files
from clipkit.data import ShardIndex, ShardReader
from clipkit.data.packing.verify import verify_shards
from clipkit.data.shards.counts import read_counts
from clipkit.data.shards.shard import Shard
from clipkit.data.shards.shard_table import scan_shard
from clipkit.data.shards.sidecars import load_summary, load_table
from clipkit.data.storage.braces import expand_braces
from clipkit.data.storage.cache import SIDECAR_SUFFIX
from clipkit.data.storage.urls import base_name, expand_urls, parse_address
from clipkit.errors import DataError, ShardError
from tests.helpers.factories import pair, write_shard, write_shards


def sidecar(path: Path) -> Path:
    return path.with_name(path.name + SIDECAR_SUFFIX)


@pytest.mark.parametrize(
    ("pattern", "expanded"),
    [
        ("a.tar", ["a.tar"]),
        ("{a,b}.tar", ["a.tar", "b.tar"]),
        ("{08..11}.tar", ["08.tar", "09.tar", "10.tar", "11.tar"]),
        ("{8..10}", ["8", "9", "10"]),
        ("{3..1}", ["3", "2", "1"]),
        ("{0..6..3}", ["0", "3", "6"]),
        ("{a..c}", ["a", "b", "c"]),
        ("{x,y{1..2}}z", ["xz", "y1z", "y2z"]),
        ("{a,b}/{0..1}", ["a/0", "a/1", "b/0", "b/1"]),
        ("{a}.tar", ["{a}.tar"]),
        ("{a.tar", ["{a.tar"]),
        ("{}{1..2}", ["{}1", "{}2"]),
    ],
)
def test_braces(pattern: str, expanded: list[str]) -> None:
    assert list(expand_braces(pattern)) == expanded


def test_every_way_to_name_shards(tmp_path: Path) -> None:
    first = write_shards(tmp_path / "a", [2, 3])
    second = write_shards(tmp_path / "b", [4])
    index = {
        "folder": ShardIndex.from_urls(tmp_path / "a"),
        "braces": ShardIndex.from_urls(f"{tmp_path}/a/{{00000..00001}}.tar"),
        "glob": ShardIndex.from_urls(f"{tmp_path}/a/*"),
        "file": ShardIndex.from_urls(f"file://{tmp_path}/a/{{00000..00001}}.tar"),
        "list": ShardIndex.from_urls(first),
    }
    assert {name: found.counts.tolist() for name, found in index.items()} == {
        name: [2, 3] for name in index
    }
    assert len({found.fingerprint for found in index.values()}) == 1
    union = ShardIndex.from_urls(f"{tmp_path}/a::{second[0]}")
    assert union.counts.tolist() == [2, 3, 4]
    assert [union.locate(i) for i in (0, 1, 2, 4, 5, 8)] == [
        (0, 0), (0, 1), (1, 0), (1, 2), (2, 0), (2, 3),
    ]  # fmt: skip
    with pytest.raises(DataError, match="sample 9: expected 0 to 8"):
        union.locate(9)


def test_names_that_look_like_patterns(tmp_path: Path) -> None:
    paths = write_shards(tmp_path / "run[1]", [2, 3])
    assert ShardIndex.from_urls(paths).counts.tolist() == [2, 3]
    assert ShardIndex.from_urls(f"{tmp_path}/run[[]1]/*.tar").counts.tolist() == [2, 3]


def test_signed_urls_keep_their_query(tmp_path: Path) -> None:
    url = "https://host/a/00000.tar?signature=a/b*"
    assert base_name(url) == "00000.tar"
    signed = "https://host/a/00000.tar?x=[1]"
    assert expand_urls(signed) == [parse_address(signed)]
    signed = "https://h/0.tar?signature="
    indexes = [ShardIndex([Shard(parse_address(signed + s), 5, 9)]) for s in "ab"]
    assert indexes[0].fingerprint == indexes[1].fingerprint


def test_sidecars_are_used_and_renewed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (path,) = write_shards(tmp_path, [3])
    ShardIndex.from_urls(path)
    assert sidecar(path).is_file()
    scans: list[str] = []
    monkeypatch.setattr(
        "clipkit.data.shards.indexing.scan_shard",
        lambda path, *args: (scans.append(str(path)), scan_shard(path, *args))[1],
    )
    assert len(ShardIndex.from_urls(path)) == 3
    assert scans == []
    write_shards(tmp_path, [5])
    os.utime(path, ns=(0, 10**18))
    assert len(ShardIndex.from_urls(path)) == 5
    assert scans == [str(path)]
    sidecar(path).write_bytes(b"PK\x03\x04 not a zip at all")
    assert len(ShardIndex.from_urls(path)) == 5
    assert len(scans) == 2
    assert not list(tmp_path.glob(".*.tmp"))


@pytest.mark.parametrize("number", [errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("step", ["temporary_path", "fsync"])
def test_sidecars_that_the_disk_refuses_are_one_warning(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    step: str,
) -> None:
    """Tests may run as root, whom the rights of a folder do not stop."""
    paths = write_shards(tmp_path, [3, 2])

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((atomic_files, step) if step == "temporary_path" else (os, step)), refuse)
    index = ShardIndex.from_urls(tmp_path)
    assert ShardReader(index).read(4).key == "000004"
    assert sorted(tmp_path.iterdir()) == paths
    (record,) = caplog.records
    assert "2 index files not written" in record.getMessage()
    assert os.strerror(number) in record.getMessage()


def test_a_folder_in_the_place_of_a_sidecar(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, [3])
    sidecar(path).mkdir()
    assert ShardReader(ShardIndex.from_urls(path)).read(2).key == "000002"


def test_sidecars_can_be_left_out(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, [3])
    assert len(ShardIndex.from_urls(path, write_sidecars=False)) == 3
    assert not sidecar(path).exists()


def test_the_fingerprint_knows_what_changed(tmp_path: Path) -> None:
    write_shards(tmp_path / "a", [3, 4])
    write_shards(tmp_path / "moved", [3, 4])
    same = [ShardIndex.from_urls(tmp_path / name).fingerprint for name in ("a", "moved")]
    assert same[0] == same[1]
    write_shards(tmp_path / "b", [3, 5])
    write_shards(tmp_path / "c", [4, 3])
    others = {ShardIndex.from_urls(tmp_path / name).fingerprint for name in ("b", "c")}
    assert len(others | {same[0]}) == 3


def test_the_digest_knows_what_the_sizes_do_not(tmp_path: Path) -> None:
    """Keys, their order inside shards, and the sizes of members; moving a folder keeps it."""

    def index(name: str, samples: list[tuple[str, dict[str, bytes]]]) -> ShardIndex:
        write_shard(tmp_path / name / "0.tar", samples)
        return ShardIndex.from_urls(tmp_path / name)

    a, b = {"txt": b"1", "cls": b"0"}, {"txt": b"333", "cls": b"0"}
    first = index("first", [("a", a), ("b", b)])
    assert first.digest == index("moved", [("a", a), ("b", b)]).digest
    others = [
        index("keys", [("a", a), ("c", b)]),
        index("order", [("b", b), ("a", a)]),
        index("sizes", [("a", b), ("b", a)]),
        index("extensions", [("a", a), ("b", {"txt": b"333", "num": b"0"})]),
    ]
    assert len({first.digest, *(other.digest for other in others)}) == 5
    assert {other.fingerprint for other in others} == {first.fingerprint}
    # From the sidecar, by a scan, and after a scan of another shard.
    assert ShardIndex.from_urls(tmp_path / "first").digest == first.digest
    assert ShardIndex.from_urls(tmp_path / "first", write_sidecars=False).digest == first.digest


def test_the_digest_is_unknown_where_counts_alone_are_known() -> None:
    known = Shard(parse_address("s3://b/0.tar"), 3, 9, "", "d1")
    unknown = Shard(parse_address("s3://b/1.tar"), 4, 9)
    assert ShardIndex([known]).digest
    assert ShardIndex([known, unknown]).digest == ""


@pytest.mark.parametrize("offset", [6, 8, 10, 26, 30])
def test_a_sidecar_with_damaged_flags_is_made_again(tmp_path: Path, offset: int) -> None:
    """Every bit of the fields of a zip's headers: encryption, patches, methods, lengths."""
    (path,) = write_shards(tmp_path, [3])
    digest = ShardIndex.from_urls(path).digest
    whole = sidecar(path).read_bytes()
    headers = (b"PK\1\2", b"PK\3\4", b"PK\5\6")
    for start in sorted({find(header) for header in headers for find in (whole.find, whole.rfind)}):
        for bit in range(16):
            damaged = bytearray(whole)
            if start + offset + 1 < len(damaged):
                damaged[start + offset + bit // 8] ^= 1 << bit % 8
            sidecar(path).write_bytes(damaged)
            index = ShardIndex.from_urls(path)
            assert index.digest == digest
            assert ShardReader(index).read(2).members == pair(2)


def test_a_sidecar_of_the_first_format_is_made_again(tmp_path: Path) -> None:
    """It passed over links, so its table may lack members."""
    (path,) = write_shards(tmp_path, [3])
    status = path.stat()
    np.savez(
        sidecar(path).with_suffix(""),
        format_version=np.int64(1),
        size_bytes=np.int64(status.st_size),
        stamp=np.array(str(status.st_mtime_ns)),
        num_samples=np.int64(2),
    )
    assert ShardIndex.from_urls(path).num_samples == 3


def index_error(urls: object) -> str:
    with pytest.raises(ShardError) as caught:
        ShardIndex.from_urls(urls)  # type: ignore[arg-type]
    return str(caught.value)


def test_no_shards_match(tmp_path: Path) -> None:
    assert "no shards match" in index_error(f"{tmp_path}/*.tar")
    assert "no shards match" in index_error(tmp_path)
    assert "no shards" in index_error([])


def test_missing_files_are_named(tmp_path: Path) -> None:
    write_shards(tmp_path, [2])
    message = index_error(f"{tmp_path}/{{00000..00002}}.tar")
    assert "2 of 3 shards" in message
    assert "00001.tar: no such file" in message
    assert "00002.tar: no such file" in message


def test_empty_shards(tmp_path: Path) -> None:
    empty = write_shard(tmp_path / "empty.tar", [])
    assert f"{empty}: empty shard" in index_error(empty)
    nothing = tmp_path / "nothing.tar"
    nothing.touch()
    assert f"{nothing}: empty shard" in index_error(nothing)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("loop.tar", "Too many levels of symbolic links"),
        ("loops/*.tar", "no shards match"),
        ("loops", "Too many levels of symbolic links"),
        ("loop/a.tar", "Too many levels of symbolic links"),
        ("x" * 300 + ".tar", "File name too long"),
        ("x" * 300 + "/*.tar", "File name too long"),
        ("y/" * 3000 + "a.tar", "File name too long"),
        ("a\0b.tar", "null byte"),
        ("a\0*/b.tar", "no shards match"),
        ("~nobody\0/a.tar", "null byte"),
        ("file://a\0.tar", "null byte"),
        ("a\0.json", "null byte"),
    ],
)
def test_paths_that_cannot_be_are_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("loop", "loop.tar", "loops/loop.tar"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).symlink_to(Path(name).name)
    with pytest.raises(DataError, match=reason):
        ShardIndex.from_urls(url)
    (shard,) = write_shards(tmp_path / "data", [2])
    with pytest.raises(DataError, match=r"no such file|cannot be read"):
        ShardIndex.from_urls(shard, counts=url)


def test_counts_that_are_a_loop_of_links_are_not_used(tmp_path: Path) -> None:
    write_shards(tmp_path, [2])
    (tmp_path / "sizes.json").symlink_to("sizes.json")
    assert ShardIndex.from_urls(tmp_path).num_samples == 2


def test_a_tar_of_directories(tmp_path: Path) -> None:
    path = tmp_path / "folders.tar"
    with tarfile.open(path, "w") as tar:
        for name in ("a", "b.c"):
            info = tarfile.TarInfo(name)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
    assert "2 directories" in index_error(path)


def test_duplicate_keys(tmp_path: Path) -> None:
    path = write_shard(tmp_path / "d.tar", [("a", pair(0)), ("b", pair(1)), ("a", pair(2))])
    assert "duplicate key 'a'" in index_error(path)
    path = write_shard(tmp_path / "e.tar", [("a", {"jpg": b"x", "JPG": b"y"})])
    assert "duplicate member a.jpg" in index_error(path)


def test_one_shard_named_twice(tmp_path: Path) -> None:
    (path,) = write_shards(tmp_path, [2])
    assert "named twice" in index_error([path, path])


def test_all_faults_are_named_at_once_or_left_out(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [3, 3, 3, 3])
    paths[1].write_bytes(paths[1].read_bytes()[:1500])
    paths[3].unlink()
    message = index_error(paths)
    assert "2 of 4 shards" in message
    assert "00001.tar: truncated" in message
    assert "00003.tar: no such file" in message
    index = ShardIndex.from_urls(paths, max_bad_shards=2)
    assert index.counts.tolist() == [3, 3]
    assert [Path(url).name for url, _ in index.faults] == ["00001.tar", "00003.tar"]
    with pytest.raises(ShardError):
        ShardIndex.from_urls(paths, max_bad_shards=1)
    with pytest.raises(ShardError):
        ShardIndex.from_urls([paths[1]], max_bad_shards=9)


def test_pipes_only_when_asked_for() -> None:
    with pytest.raises(DataError, match="allow_pipe=True"):
        expand_urls("pipe:cat {0..1}.tar")
    found = expand_urls("pipe:cat {0..1}.tar", allow_pipe=True)
    assert [(str(one), one.kind) for one in found] == [
        ("pipe:cat 0.tar", "pipe"), ("pipe:cat 1.tar", "pipe"),
    ]  # fmt: skip


def test_an_unknown_scheme_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nosuch://x/a.tar"):
        ShardIndex.from_urls("nosuch://x/a.tar")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("sizes.json", {"00000.tar": 3, "00001.tar": 4}),
        (".info.json", {"shard_counts": {"train/00000.tar": 3, "train/00001.tar": 4}}),
        (
            "wids.json",
            {
                "__kind__": "wids-shard-index-v1",
                "shardlist": [
                    {"url": "00000.tar", "nsamples": 3},
                    {"url": "00001.tar", "nsamples": 4},
                ],
            },
        ),
    ],
)
def test_counts_of_other_tools(tmp_path: Path, name: str, content: object) -> None:
    paths = write_shards(tmp_path, [3, 4])
    path = tmp_path / name
    path.write_text(json.dumps(content))
    assert read_counts(path) == {"00000.tar": 3, "00001.tar": 4}
    assert ShardIndex.from_urls(paths, counts=path).num_samples == 7
    # A shard that lost a sample at a member's boundary, made whole again with an end marker.
    write_shard(paths[1], [(f"{i:06d}", pair(i)) for i in range(3)])
    with pytest.raises(ShardError, match=r"expected 4 samples.*got 3"):
        ShardIndex.from_urls(paths, counts=path)


def test_counts_beside_the_shards_are_found(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [3])
    (tmp_path / "sizes.json").write_text(json.dumps({"00000.tar": 5, "other.tar": 1}))
    with pytest.raises(ShardError, match="expected 5 samples"):
        ShardIndex.from_urls(paths)


def test_a_wids_index_names_shards(tmp_path: Path) -> None:
    write_shards(tmp_path / "data", [3, 4])
    path = tmp_path / "index.json"
    entries = [{"url": f"data/0000{i}.tar", "nsamples": 3 + i} for i in range(2)]
    path.write_text(json.dumps({"shardlist": entries}))
    assert ShardIndex.from_urls(path).counts.tolist() == [3, 4]
    assert ShardIndex.from_urls([str(path)]).counts.tolist() == [3, 4]


@pytest.mark.parametrize("content", ["[]", "{}", '{"a.tar": "x"}', "not json"])
def test_broken_counts_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "sizes.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"sizes\.json"):
        read_counts(path)


def test_a_table_is_a_few_columns(tmp_path: Path) -> None:
    """Memory of an index grows with bytes in columns, not with Python objects."""
    path = write_shard(tmp_path / "many.tar", [(f"{i:07d}", {"txt": b"x"}) for i in range(2000)])
    index = ShardIndex.from_urls(path)
    table = ShardReader(index).table(0)
    arrays = [getattr(table, name) for name in ("keys", "key_ends", "member_ends", "offsets")]
    assert all(isinstance(array, np.ndarray) for array in arrays)
    total = sum(array.nbytes for array in (*arrays, table.sizes, table.kinds))
    assert total / len(table) < 60
    assert [table.key(i) for i in (0, 1999)] == ["0000000", "0001999"]


def test_counting_reads_a_few_bytes_of_a_sidecar(tmp_path: Path) -> None:
    """Tens of thousands of shards are counted at every start; their tables are read when needed."""
    samples = [(f"{i:07d}", {"txt": b"x"}) for i in range(5000)]
    path = write_shard(tmp_path / "many.tar", samples)
    ShardIndex.from_urls(path)
    data = bytearray(sidecar(path).read_bytes())
    assert len(data) > 100_000
    with zipfile.ZipFile(sidecar(path)) as archive:
        columns = [i for i in archive.infolist() if i.file_size > 10_000]
    for column in columns:  # damage what only a table needs
        middle = column.header_offset + 200 + column.file_size // 2
        data[middle] ^= 0xFF
    status = path.stat()
    sidecar(path).write_bytes(data)
    summary = load_summary(sidecar(path), status.st_size, str(status.st_mtime_ns))
    assert summary is not None
    assert summary.num_samples == 5000
    assert load_table(sidecar(path), status.st_size, str(status.st_mtime_ns)) is None
    assert ShardReader(ShardIndex.from_urls(path)).read(4999).key == "0004999"
    # Whoever met the damage has mended it.
    assert load_table(sidecar(path), status.st_size, str(status.st_mtime_ns)) is not None


def test_progress_is_reported_for_every_shard(tmp_path: Path) -> None:
    paths = write_shards(tmp_path, [1, 2, 3])
    seen: list[int] = []
    ShardIndex.from_urls(paths, on_shard=lambda shard: seen.append(shard.num_samples))
    assert seen == [1, 2, 3]


@pytest.mark.timeout(60)
def test_places_that_cannot_be_read(tmp_path: Path) -> None:
    """Whatever keeps a shard from being read is one error that names it, for Python too."""
    (tmp_path / "loop.tar").symlink_to(tmp_path / "loop.tar")
    os.mkfifo(tmp_path / "pipe.tar")
    (tmp_path / "file").write_text("x")
    for name in (
        "loop.tar", "loop.tar/x.tar", "pipe.tar", "file/x.tar", "x" * 300 + ".tar", "a\0b.tar",
        "**x/*.tar", "x" * 300 + "*.tar", "[*.tar", "/".join(["d" * 200] * 30),
    ):  # fmt: skip
        with pytest.raises(DataError) as caught:
            ShardIndex.from_urls(f"{tmp_path}/{name}")
        assert name in str(caught.value)
        with contextlib.suppress(ShardError):
            assert verify_shards(f"{tmp_path}/{name}").faults


@pytest.mark.parametrize(
    "pattern", ["{0..99999999999}.tar", "{a,b}" * 40, "{a," * 2000 + "b" + "}" * 2000, "{" * 10**5]
)
def test_braces_without_measure(pattern: str) -> None:
    with pytest.raises(DataError, match=r"names|braces"):
        ShardIndex.from_urls(pattern)
