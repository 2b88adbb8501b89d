"""No name out of data becomes a command, a pattern, or a file of another store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from clipkit.cli.main import main
from clipkit.data import ShardCache, ShardIndex
from clipkit.data.packing.verify import verify_shards
from clipkit.data.storage.urls import Address, expand_urls, file_system, parse_address
from clipkit.errors import DataError, ShardError
from clipkit.evaluation import open_dataset
from tests.helpers.factories import write_shards
from tests.helpers.servers import Misbehaviour, http_server


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """The file that every command here would write."""
    return tmp_path / "ran"


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_shards(tmp_path / "shards", [3])[0]


def patterns(shard: Path, mark: Path) -> list[Any]:
    """Ways to hide a command."""
    command = f"pipe:touch {mark}; cat {shard}"
    return [
        command,
        [str(shard), command],
        f"{shard}::{command}",
        f"::{command}",
        f"{command}::{shard}",
        f"{{{command},}}",
        f"{{{shard},{command}}}",
        f"{{::{command},}}",
        f"{{pipe:,}}touch {mark}",
        f"file://{shard}::{command}",
        f"http://127.0.0.1:9/a.tar::{command}",
        f"simplecache::{command}",
    ]


@pytest.mark.parametrize("number", range(12))
def test_a_command_is_refused_wherever_it_stands(shard: Path, mark: Path, number: int) -> None:
    pattern = patterns(shard, mark)[number]
    with pytest.raises(DataError, match="a pipe runs a command"):
        ShardIndex.from_urls(pattern)
    texts = [pattern] if isinstance(pattern, str) else pattern
    assert main(["shards", "verify", *texts]) == 2
    assert main(["shards", "index", *texts]) == 2
    with pytest.raises(DataError):
        open_dataset(texts[-1])
    assert not mark.exists()


def test_a_command_that_is_allowed_may_stand_in_a_union(shard: Path, tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "cache")
    index = ShardIndex.from_urls(f"{shard}::pipe:cat {shard}", allow_pipe=True, cache=cache)
    assert [one.address.kind for one in index.shards] == ["file", "pipe"]


NAMES = (
    "a.tar::pipe:touch ran # .tar",
    "pipe:touch ran # .tar",
    "{pipe:touch ran #,}.tar",
    "{0..1}.tar",
    "[ab]*?.tar",
    "~nobody.tar",
    "http:a.tar",
)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("pattern", [".", "*.tar", "*", "../*/*.tar", Path(), Path("*.tar")])
def test_a_name_found_on_disk_is_taken_as_it_is(
    shard: Path, name: str, pattern: str | Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard.rename(shard.with_name(name))
    monkeypatch.chdir(shard.parent)
    index = ShardIndex.from_urls(pattern, allow_pipe=True)
    assert [Path(one.url).name for one in index.shards] == [name]
    assert verify_shards(pattern if isinstance(pattern, str) else "*.tar").faults == ()
    assert not Path("ran").exists()


@pytest.mark.parametrize("name", NAMES[2:6])
def test_a_name_that_the_shell_expanded_is_taken_as_it_is(
    shard: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard.rename(shard.with_name(name))
    monkeypatch.chdir(shard.parent)
    assert main(["shards", "verify", name]) == 0


INDEXED = (
    "pipe:touch {mark}; cat {shard}",
    "ok.tar::pipe:touch {mark}",
    "{{pipe:touch {mark},}}",
    "*.tar",
    "reference://a::http://127.0.0.1:9/references.json",
)


def wids(*urls: str) -> bytes:
    return json.dumps({"shardlist": [{"url": url, "nsamples": 3} for url in urls]}).encode()


@pytest.mark.parametrize("text", INDEXED)
@pytest.mark.parametrize("allow_pipe", [False, True])
def test_an_index_names_files_and_nothing_else(
    shard: Path, mark: Path, text: str, allow_pipe: bool
) -> None:
    path = shard.parent / "index.json"
    path.write_bytes(wids(text.format(mark=mark, shard=shard)))
    with pytest.raises(DataError):
        ShardIndex.from_urls(path, allow_pipe=allow_pipe)
    assert main(["shards", "verify", str(path)]) != 0
    assert not mark.exists()


@pytest.mark.parametrize("text", [*INDEXED, "/etc/passwd", "file://{shard}", "local://{shard}"])
def test_a_remote_index_names_remote_files_and_nothing_else(
    shard: Path, mark: Path, tmp_path: Path, text: str
) -> None:
    content = wids(text.format(mark=mark, shard=shard))
    cache = ShardCache(tmp_path / "cache", retries=0)
    with http_server({"/data/index.json": content}, Misbehaviour()) as server:
        with pytest.raises(DataError):
            ShardIndex.from_urls(f"{server}/data/index.json", allow_pipe=True, cache=cache)
        with pytest.raises(DataError):
            open_dataset(f"{server}/data/index.json")
    assert not mark.exists()


def test_an_index_may_still_name_its_neighbours_and_other_folders(
    shard: Path, tmp_path: Path
) -> None:
    other = write_shards(tmp_path / "other", [3])[0].rename(tmp_path / "other" / "{0..9}.tar")
    path = shard.parent / "index.json"
    path.write_bytes(wids(shard.name, "../other/{0..9}.tar"))
    assert ShardIndex.from_urls(path).counts.tolist() == [3, 3]
    path.write_bytes(wids(str(shard), f"file://{other}"))
    assert ShardIndex.from_urls(f"file://{path}").counts.tolist() == [3, 3]


@pytest.mark.parametrize(
    "content", [b'{"shardlist": 3}', b'{"shardlist": [{}]}', b'{"shardlist": ["a"]}', b"[" * 10**5]
)
def test_a_broken_index_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "index.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"index\.json"):
        ShardIndex.from_urls(path)


def test_a_chain_of_file_systems_is_refused() -> None:
    with pytest.raises(DataError, match="one file"):
        file_system("reference://a::http://127.0.0.1:9/references.json")


@pytest.mark.parametrize("scheme", ["reference", "dir", "simplecache", "github", "nosuch"])
def test_a_scheme_that_cannot_be_opened_is_named(scheme: str) -> None:
    with pytest.raises(DataError, match=f"{scheme}://a.tar: cannot be opened"):
        file_system(f"{scheme}://a.tar")


def test_a_store_that_cannot_be_listed_is_named() -> None:
    with pytest.raises(ShardError, match=r"/\*\.tar: cannot be listed"):
        expand_urls("http://127.0.0.1:9/*.tar")


def test_an_address_says_what_it_is() -> None:
    assert parse_address("a/b.tar") == Address("a/b.tar", "file")
    assert parse_address("file:///a/b.tar") == Address("/a/b.tar", "file")
    assert parse_address("s3://a/b.tar").kind == "remote"
    assert str(parse_address("https://h/a/b.tar?x=/c").folder) == "https://h/a"
    assert parse_address("https://h/a/b.tar?x=/c").name == "b.tar"


def test_a_path_is_never_a_url_or_a_command(tmp_path: Path) -> None:
    for text in ("pipe:touch x", "a.tar::pipe:touch x", "{pipe:touch x,pipe:touch y}"):
        assert {one.kind for one in expand_urls(Path(text), allow_pipe=True)} == {"file"}
    with pytest.raises(ShardError, match="no such file"):
        ShardIndex.from_urls(tmp_path / "pipe:touch x", allow_pipe=True)
