"""Data sets on the Hub: the Parquet branch, a pinned commit, one split, errors that name it."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest

from clipkit.data import ShardIndex, ShardReader, pack
from clipkit.data.packing.hub import download_parquet, hub_address, pinned
from clipkit.data.packing.packed_cache import is_raw, pack_to_cache
from clipkit.errors import DataError
from clipkit.evaluation.datasets.opening import open_dataset
from tests.helpers.factories import image_bytes

REPO = "owner/cats"
PARQUET_BRANCH = "refs/convert/parquet"
ADDRESS = f"hf://datasets/{REPO}"


def hub_parquet(captions: list[str]) -> bytes:
    """Return a file as the Hub writes it: images as structs of bytes and path."""
    import pyarrow as pa
    from pyarrow import parquet

    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": image_bytes(seed=n), "path": "image.jpg"} for n in range(len(captions))]
    table = pa.table({"image": pa.array(images, kind), "caption": captions})
    file = io.BytesIO()
    parquet.write_table(table, file, row_group_size=2)
    return file.getvalue()


@pytest.fixture
def cats(hub, tmp_path, monkeypatch):
    """A data set of the hub."""
    monkeypatch.setenv("CLIPKIT_CACHE", str(tmp_path / "cache"))
    return hub.data_set(REPO)


def push(repository, files, branch=PARQUET_BRANCH) -> str:
    """Make files the only ones of a branch; returns the commit."""
    repository.refs.pop(branch, None)
    return repository.commit(files, branch)


def texts_of(shards) -> list[str]:
    reader = ShardReader(ShardIndex.from_urls(list(shards)))
    return [reader.read(n).members["txt"].decode() for n in range(reader.num_samples)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf://datasets/a/b", ("a/b", None, "")),
        ("hf://datasets/a/b@main/data/train", ("a/b", "main", "data/train")),
        (Path("hf://datasets/a/b/c/d"), ("a/b", None, "c/d")),
        ("hf://datasets/a/b@refs/pr/3/data", ("a/b", "refs/pr/3", "data")),
        ("hf://datasets/a/b@v1+x=2/split=train/en+de", ("a/b", "v1+x=2", "split=train/en+de")),
        ("hf://datasets/a/b@main/x@1 (é), [2]:3", ("a/b", "main", "x@1 (é), [2]:3")),
        ("hf://datasets/a/b@main/data/*.parquet", ("a/b", "main", "data/*.parquet")),
    ],
)
def test_addresses(text, expected):
    address = hub_address(text)
    assert address is not None
    assert (address.repo, address.revision, address.path) == expected


@pytest.mark.parametrize(
    "text",
    [
        "hf://datasets/a/b/{0..3}.tar",
        "hf://datasets/a/b/0.tar",
        "hf://datasets/a/b/0.tar::c",
        "hf://datasets/a/b/*",
        "hf://models/a/b",
        "a/b",
        "hf://a",
    ],
)
def test_other_addresses_are_not_tables(text):
    assert hub_address(text) is None


def test_all_parts_of_the_only_split_are_read_in_order(cats, tmp_path):
    push(
        cats,
        {
            "default/train/0001.parquet": hub_parquet(["three"]),
            "default/train/0000.parquet": hub_parquet(["zero", "one", "two"]),
            "README.md": b"",
        },
    )
    report = pack(ADDRESS, tmp_path / "out", samples_per_shard=3)
    assert texts_of(report.shards) == ["zero", "one", "two", "three"]
    reader = ShardReader(ShardIndex.from_urls(list(report.shards)))
    stored = [reader.read(n).members["jpg"] for n in range(4)]
    assert stored == [image_bytes(seed=n) for n in (0, 1, 2, 0)]


def test_a_pinned_address_keeps_its_bytes(cats):
    first = push(cats, {"default/train/0000.parquet": hub_parquet(["old"])})
    address = pinned(ADDRESS)
    assert address == f"{ADDRESS}@{first}/default/train"
    assert pinned(address) == address
    push(cats, {"default/train/0000.parquet": hub_parquet(["new", "newer"])})
    assert is_raw(address)
    old = pack_to_cache(address)
    assert texts_of(old.shards) == ["old"]
    assert texts_of(pack_to_cache(ADDRESS).shards) == ["new", "newer"]
    assert pack_to_cache(address) == old


def test_a_pinned_address_needs_no_answer_of_the_hub_again(cats, monkeypatch):
    from huggingface_hub import constants

    push(cats, {"default/train/0000.parquet": hub_parquet(["old"])})
    address = pinned(ADDRESS)
    packed = pack_to_cache(address)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert pack_to_cache(address) == packed


def test_files_of_another_branch_by_the_beginning_of_their_names(cats):
    files = {"data/train-00000-of-00001.parquet": hub_parquet(["a"])}
    push(cats, {**files, "data/test-00000-of-00001.parquet": hub_parquet(["b"])}, "main")
    address = hub_address(f"{ADDRESS}@main/data/train")
    assert address is not None
    paths, versions = download_parquet(address)
    assert [path.name for path in paths] == ["train-00000-of-00001.parquet"]
    assert versions[0].endswith("/data/train-00000-of-00001.parquet")


LAYOUTS = {
    "numbered": ("data/train-00000-of-00001", "data/test-00000-of-00001"),
    "not numbered": ("data/train", "data/test"),
    "without a total": ("data/train-0", "data/test-0"),
    "one name begins the other": ("data/train-00000-of-00001", "data/train-more-00000-of-00001"),
    "with a year": ("data/wiki2021-00000-of-00001", "data/wiki2022-00000-of-00001"),
    "in the topmost folder": ("train-00000-of-00001", "test-00000-of-00001"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_splits_in_one_folder_are_never_joined(cats, layout):
    stems = LAYOUTS[layout]
    push(cats, {f"{stem}.parquet": hub_parquet([stem]) for stem in stems}, "main")
    splits = sorted(stem.removesuffix("-00000-of-00001").removesuffix("-0") for stem in stems)
    listed = ", ".join(f"{ADDRESS}@main/{split}" for split in splits)
    with pytest.raises(DataError, match=re.escape(f"name one of: {listed};")):
        pinned(f"{ADDRESS}@main")
    if "/" in splits[0]:
        with pytest.raises(DataError, match=re.escape(f"name one of: {listed};")):
            pack_to_cache(f"{ADDRESS}@main/data")
    for split, stem in zip(splits, sorted(stems), strict=True):
        assert texts_of(pack_to_cache(f"{ADDRESS}@main/{split}").shards) == [stem]


def test_a_glob_joins_the_files_that_it_matches(cats):
    stems = ("data/one_of_2", "data/two_of_2", "data/more/three")
    push(cats, {f"{stem}.parquet": hub_parquet([stem]) for stem in stems}, "main")
    both = pack_to_cache(f"{ADDRESS}@main/data/*.parquet")
    assert texts_of(both.shards) == ["data/one_of_2", "data/two_of_2"]
    one = pack_to_cache(f"{ADDRESS}@main/data/two_of_2.parquet")
    assert texts_of(one.shards) == ["data/two_of_2"]


@pytest.mark.parametrize("folder", ["split=train", "en+de", "x@1 (é), [2]", "a folder-1"])
def test_a_pinned_address_is_readable_again(cats, folder):
    commit = push(cats, {f"{folder}/0000.parquet": hub_parquet([folder])}, "main")
    address = pinned(f"{ADDRESS}@main")
    assert address == f"{ADDRESS}@{commit}/{folder}"
    assert pinned(address) == address
    assert is_raw(address)
    assert texts_of(pack_to_cache(address).shards) == [folder]


@pytest.mark.parametrize("folder", ["what?", "a*b", "{x}", "a::b"])
def test_a_folder_that_no_address_can_name_is_refused(cats, folder):
    push(cats, {f"{folder}/0000.parquet": hub_parquet(["a"])}, "main")
    with pytest.raises(DataError, match=re.escape(f"/{folder}: cannot be named as an address")):
        pinned(f"{ADDRESS}@main")


def test_what_is_not_there_is_named(cats):
    with pytest.raises(DataError, match="owner/dogs: no such data set on the Hub, or no access"):
        pinned("hf://datasets/owner/dogs")
    push(cats, {}, "main")
    with pytest.raises(DataError, match="no revision refs/convert/parquet; the Hub converts"):
        pinned(ADDRESS)
    splits = {f"default/{name}/0000.parquet": hub_parquet([name]) for name in ("test", "train")}
    push(cats, splits)
    expected = f"name one of: {ADDRESS}/default/test, {ADDRESS}/default/train"
    with pytest.raises(DataError, match=expected):
        pinned(ADDRESS)
    with pytest.raises(DataError, match="no Parquet files there; expected /CONFIG/SPLIT"):
        pack_to_cache(f"{ADDRESS}/default/val")


def test_a_hub_that_does_not_answer_is_named(cats, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DataError, match="hf://datasets/owner/cats: cannot be read from the Hub"):
        pinned(ADDRESS)


def test_evaluation_takes_a_data_set(cats):
    push(cats, {"default/test/0000.parquet": hub_parquet(["a", "b"])})
    data = open_dataset(ADDRESS)
    assert len(data) == 2
    assert data.task == "retrieval"


def test_a_split_that_the_hub_converted_in_part_is_reported(cats, caplog):
    push(cats, {"default/partial-train/0000.parquet": hub_parquet(["a"])})
    pack_to_cache(ADDRESS)
    assert "converted only the first part of this split" in caplog.text
