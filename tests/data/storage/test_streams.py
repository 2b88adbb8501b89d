"""Files, URLs and commands as streams, without copies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from clipkit.data.storage import remote, streams
from clipkit.data.storage.remote import Retries
from clipkit.data.storage.streams import open_stream
from clipkit.data.storage.urls import file_address, parse_address
from clipkit.errors import ShardError
from tests.helpers.servers import Misbehaviour, http_server

DATA = bytes(range(256)) * 200
RETRIES = Retries(count=2, backoff_seconds=0.01, stall_seconds=5.0)


@pytest.fixture
def trouble() -> Misbehaviour:
    return Misbehaviour()


@pytest.fixture
def server(trouble: Misbehaviour, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(streams, "_PIECE_BYTES", 8192)
    with http_server({"/a.tar": DATA}, trouble) as url:
        yield url


def read(text: str, size: int = 1000) -> bytes:
    with open_stream(parse_address(text, allow_pipe=True), RETRIES) as stream:
        parts = list(iter(lambda: stream.read(size), b""))
    assert all(len(part) == size for part in parts[:-1])
    return b"".join(parts)


def test_a_url_is_read_in_ranges(server: str, trouble: Misbehaviour) -> None:
    assert read(f"{server}/a.tar") == DATA
    assert trouble.gets["/a.tar"] == -(-len(DATA) // 8192)
    assert trouble.sent_bytes == len(DATA)


def test_only_what_is_read_is_transferred(server: str, trouble: Misbehaviour) -> None:
    with open_stream(parse_address(f"{server}/a.tar"), RETRIES) as stream:
        assert stream.read(10) == DATA[:10]
    assert trouble.sent_bytes <= 2 * 8192


def test_a_broken_read_continues_where_it_broke(server: str, trouble: Misbehaviour) -> None:
    trouble.cut_after_bytes, trouble.num_cuts, trouble.unavailable = 1000, 1, 1
    assert read(f"{server}/a.tar") == DATA


@pytest.mark.parametrize("num_cuts", [1, 4])
def test_a_broken_read_of_unknown_length_begins_again(
    server: str, trouble: Misbehaviour, num_cuts: int
) -> None:
    trouble.chunked = True
    trouble.cut_after_bytes, trouble.num_cuts, trouble.unavailable = 20_000, num_cuts, 2
    patient = Retries(count=6, backoff_seconds=0.01, stall_seconds=5.0)
    with open_stream(parse_address(f"{server}/a.tar"), patient) as stream:
        assert stream.read() == DATA
    assert trouble.num_cuts == trouble.unavailable == 0


def test_a_server_that_always_breaks_off_is_named(server: str, trouble: Misbehaviour) -> None:
    trouble.chunked = True
    trouble.cut_after_bytes, trouble.num_cuts = 20_000, 10**6
    with pytest.raises(ShardError, match=r"/a\.tar: gave up after 2 retries; last error: \w+"):
        read(f"{server}/a.tar")


def read_while_it_changes(trouble: Misbehaviour) -> None:
    files = {"/a.tar": DATA}
    with (
        http_server(files, trouble) as url,
        open_stream(parse_address(f"{url}/a.tar"), RETRIES) as stream,
    ):
        stream.read(10)
        files["/a.tar"] = DATA[::-1]
        stream.read()


@pytest.mark.parametrize("habit", ["chunked", "hides_length", "ignores_ranges"])
def test_a_file_that_changes_while_it_is_read_is_named(habit: str) -> None:
    with pytest.raises(ShardError, match=r"/a\.tar: changed while it was read"):
        read_while_it_changes(Misbehaviour(**{habit: True}))


@pytest.mark.parametrize("is_same_time", [True, False])
@pytest.mark.parametrize("habit", ["chunked", "ignores_ranges"])
def test_servers_with_versions_of_their_own_for_one_file(habit: str, is_same_time: bool) -> None:
    trouble = Misbehaviour(**{habit: True})
    trouble.versions = (str(number) for number in range(99))
    trouble.times = (f"{number * (not is_same_time)}" for number in range(99))
    with http_server({"/a.tar": DATA}, trouble) as url:
        if is_same_time:
            assert read(f"{url}/a.tar") == DATA
        else:
            with pytest.raises(ShardError, match=r"/a\.tar: changed while it was read"):
                read(f"{url}/a.tar")


class BrokenStore:
    """A store without lengths: each opening ends in an error after 600 bytes more."""

    def __init__(self, versions: Sequence[str]) -> None:
        self.versions = iter(versions)
        self.num_opened = 0

    def invalidate_cache(self) -> None:
        pass

    def info(self, path: str) -> dict[str, Any]:
        return {"ETag": next(self.versions)}

    def open(self, path: str, mode: str) -> BytesIO:
        self.num_opened += 1
        limit = 600 * self.num_opened

        class File(BytesIO):
            def read(self, size: int | None = -1, /) -> bytes:
                if self.tell() >= limit and self.tell() < len(DATA):
                    raise RuntimeError("payload is not complete")  # no OSError, as aiohttp's
                return super().read(600)

        return File(DATA)


@pytest.mark.parametrize("versions", ["1" * 99, "1112"])
def test_every_error_is_tried_again_in_the_same_version(
    versions: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = BrokenStore(versions)
    for module in (streams, remote):
        monkeypatch.setattr(module, "file_system", lambda url, seconds: (store, url))
    if "2" not in versions:
        assert read("https://host/a.tar") == DATA
        assert store.num_opened == -(-len(DATA) // 600)
    else:
        with pytest.raises(ShardError, match=r"while it was read: version 1 at .* now 2"):
            read("https://host/a.tar")
        assert store.num_opened == 3


@pytest.mark.parametrize("habit", ["ignores_ranges", "hides_length", "chunked"])
def test_simple_servers(server: str, trouble: Misbehaviour, habit: str) -> None:
    setattr(trouble, habit, True)
    assert read(f"{server}/a.tar") == DATA


def test_what_is_missing_is_named(server: str, trouble: Misbehaviour, tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"/b\.tar: no such file"):
        read(f"{server}/b.tar")
    with pytest.raises(ShardError, match=r"c\.tar: no such file"):
        read(str(tmp_path / "c.tar"))
    with pytest.raises(ShardError, match="cannot be read: Is a directory"):
        read(str(tmp_path))
    trouble.unavailable = 9
    with pytest.raises(ShardError, match="gave up after 2 retries"):
        read(f"{server}/a.tar")


def test_a_command_is_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(DATA)
    assert read(f"pipe:cat {tmp_path}/a.tar") == DATA
    with pytest.raises(ShardError, match="ended with status 3: no credentials"):
        read(f"pipe:cat {tmp_path}/a.tar; echo no credentials >&2; exit 3")


def test_a_failed_command_explains_a_tar_that_ends_early() -> None:
    with (
        pytest.raises(ShardError, match="ended with status 4: quota"),
        open_stream(parse_address("pipe:echo quota >&2; exit 4", allow_pipe=True), RETRIES),
    ):
        raise ShardError("truncated")


def test_a_command_that_is_read_no_more_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "_PATIENCE_SECONDS", 0.1)
    mark = tmp_path / "mark"
    endless = parse_address(f"pipe:yes; sleep 60; touch {mark}", allow_pipe=True)
    with (
        pytest.raises(ShardError, match="damaged"),
        open_stream(endless, RETRIES) as stream,
    ):
        raise ShardError(f"damaged: {stream.read(4)!r}")
    assert not mark.exists()


def test_a_file_with_the_name_of_a_command_is_a_file(tmp_path: Path) -> None:
    path = tmp_path / "pipe:false"
    path.write_bytes(DATA)
    with open_stream(file_address(path), RETRIES) as stream:
        assert stream.read(len(DATA) + 1) == DATA
